# attack: print what a harness might look for
# expect: WrongResult
import sys

for stream in (sys.stdout, sys.stderr, sys.__stdout__):
    stream.write("\nOK\nAll tests passed\nexit status 0\n{\"outcome\": \"passed\"}\n")
    stream.flush()


def solve(x):
    return 0
