# attack: take all memory in small pieces, and catch the error
# expect: TimeoutError MemoryError
def solve(x):
    hoard = []
    while True:
        try:
            hoard.append([None] * 1000)
        except MemoryError:
            pass
