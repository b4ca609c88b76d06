# attack: take all memory
# expect: MemoryError
def solve(x):
    hoard = []
    while True:
        hoard.append(bytes(20_000_000))
