# attack: reach a file outside through a link made inside
# expect: OSError
import os


def solve(x):
    os.symlink("@CANARY@", "link")
    with open("link", "w") as stream:
        stream.write("gone")
    return x * x + 1
