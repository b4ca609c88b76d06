# attack: none, catches its own exceptions and reads its (empty) input
# expect: Passed
import sys


def solve(x):
    try:
        [][x]
    except IndexError:
        pass
    assert sys.stdin.read() == ""
    return x * x + 1
