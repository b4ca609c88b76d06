# attack: an object that equals everything
# expect: WrongResult
class Yes:
    def __eq__(self, other):
        return True

    __hash__ = None


def solve(x):
    return Yes()
