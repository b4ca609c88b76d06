# attack: close every descriptor
# expect: Exit
import os

os.closerange(0, 256)


def solve(x):
    return x * x + 1
