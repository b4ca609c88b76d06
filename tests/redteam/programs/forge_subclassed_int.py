# attack: an int that equals every int and shows itself as any
# expect: WrongResult
class Any(int):
    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    __hash__ = int.__hash__


def solve(x):
    return Any(0)
