# attack: none, uses most of its CPU time
# expect: Passed
import time


def solve(x):
    end = time.process_time() + 0.09
    while time.process_time() < end:
        pass
    return x * x + 1
