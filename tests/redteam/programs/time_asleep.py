# attack: sleep for ever
# expect: TimeoutError
import time


def solve(x):
    time.sleep(10_000)
