# attack: none of the tests' assertions fails if this one does first
# expect: AssertionError
def solve(x):
    raise AssertionError("All tests passed")
