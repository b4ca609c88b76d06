# attack: compute for ever
# expect: TimeoutError
def solve(x):
    while True:
        x += 1
