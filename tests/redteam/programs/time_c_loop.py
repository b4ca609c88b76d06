# attack: a loop in C that never looks at signals
# expect: TimeoutError
import itertools


def solve(x):
    return sum(itertools.count())
