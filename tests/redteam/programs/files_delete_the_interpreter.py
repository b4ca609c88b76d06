# attack: spoil the interpreter for the next answer
# expect: OSError
import os


def solve(x):
    # Opening is proof enough: this one must do no harm where the defence is gone.
    with open(os.__file__, "a"):
        return x * x + 1
