# attack: a small value that is huge once written out
# expect: WrongResult TimeoutError MemoryError
def solve(x):
    value = []
    for _ in range(60):
        value = [value, value]
    return value
