# attack: spoil the interpreter for the next answer
# expect: OSError
import os


def solve(x):
    with open(os.__file__, "a") as stream:
        stream.write("\n1 / 0\n")
    return x * x + 1
