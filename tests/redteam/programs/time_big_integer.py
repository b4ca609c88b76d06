# attack: arithmetic that does not end
# expect: TimeoutError MemoryError
def solve(x):
    return 7 ** (7**7**7) % 10
