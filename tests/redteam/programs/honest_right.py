# attack: none, the control
# expect: Passed
def solve(x):
    print("thinking about", x)
    return x * x + 1
