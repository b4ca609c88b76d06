# attack: use up descriptors
# expect: OSError
def solve(x):
    kept = [open("/dev/null") for _ in range(100_000)]
    return len(kept)
