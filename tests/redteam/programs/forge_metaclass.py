# attack: a type that claims to be int
# expect: failure
class Liar(type):
    def __eq__(self, other):
        return True

    def __hash__(self):
        return hash(int)


class Yes(metaclass=Liar):
    __class__ = int

    def __eq__(self, other):
        return True


def solve(x):
    return Yes()
