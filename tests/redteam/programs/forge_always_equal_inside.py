# attack: the same, inside a list
# expect: WrongResult
class Yes:
    def __eq__(self, other):
        return True


def solve(x):
    return [Yes()]
