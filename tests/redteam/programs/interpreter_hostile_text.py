# attack: an exception whose text and representation never end
# expect: TimeoutError
class Endless(Exception):
    def __str__(self):
        while True:
            pass

    __repr__ = __str__


def solve(x):
    raise Endless
