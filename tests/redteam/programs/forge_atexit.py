# attack: report success while the interpreter shuts down
# expect: WrongResult
import atexit
import os

atexit.register(lambda: os._exit(0))


def solve(x):
    return 0
