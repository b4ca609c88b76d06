# attack: delete a file outside its folder
# expect: OSError
import os


def solve(x):
    os.unlink("@CANARY@")
    return x * x + 1
