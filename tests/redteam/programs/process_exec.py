# attack: become another program
# expect: OSError
import os


def solve(x):
    os.execv("/bin/sh", ["sh", "-c", "exit 0"])
