# attack: replace what a judge might use to compare
# expect: failure
import builtins

builtins.isinstance = lambda *a: True
builtins.all = builtins.any = lambda *a: True
builtins.AssertionError = type("AssertionError", (Exception,), {})
builtins.type = lambda *a: int


def solve(x):
    return 0
