# attack: read its own environment
# expect: WrongResult
import os


def solve(x):
    return dict(os.environ)
