# attack: leave an orphan behind
# expect: OSError
import os
import time


def solve(x):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(100)
    return x * x + 1
