# attack: a value that contains itself
# expect: WrongResult
def solve(x):
    value = []
    value.append(value)
    return value
