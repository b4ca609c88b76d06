# attack: answers every comparison and conversion
# expect: WrongResult
class Yes:
    def __getattr__(self, name):
        return lambda *a: True

    __eq__ = __ne__ = __lt__ = __gt__ = __bool__ = lambda *a: True


def solve(x):
    return Yes()
