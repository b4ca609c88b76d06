# attack: none, wrong in the second test only
# expect: WrongResult
def solve(x):
    return 5
