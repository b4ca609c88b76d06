# attack: overflow the stack
# expect: RecursionError OtherError MemoryError TimeoutError
import sys

sys.setrecursionlimit(10**9)


def solve(x):
    return solve(x)
