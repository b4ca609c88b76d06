# attack: keys of a dictionary with one hash, slow to rebuild outside
# expect: WrongResult TimeoutError
def solve(x):
    return dict.fromkeys((2**61 - 1) * n for n in range(1500))
