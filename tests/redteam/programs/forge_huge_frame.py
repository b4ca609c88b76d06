# attack: announce a frame of 4 GiB
# expect: WrongResult
import os


def solve(x):
    os.write(3, b"\xff\xff\xff\xff")
    return 0
