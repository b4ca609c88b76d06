# attack: a fork bomb
# expect: OSError
import os


def solve(x):
    for _ in range(5):  # enough to tell, and no bomb where the defence is gone
        os.fork()
    return x * x + 1
