# attack: a fork bomb that takes no for an answer
# expect: OSError TimeoutError
import os


def solve(x):
    while True:
        os.fork()
