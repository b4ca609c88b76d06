# attack: catch every exception for ever
# expect: TimeoutError
def solve(x):
    while True:
        try:
            while True:
                x += 1
        except BaseException:
            pass
