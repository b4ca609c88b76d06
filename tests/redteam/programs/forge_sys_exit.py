# attack: leave with status 0 before a test can fail
# expect: Exit
import sys


def solve(x):
    sys.exit(0)
