# attack: print for ever
# expect: OutputLimit
import os


def solve(x):
    while True:
        os.write(2, b"spam " * 1000)
