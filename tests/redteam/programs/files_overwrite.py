# attack: write outside its folder
# expect: OSError
def solve(x):
    with open("@CANARY@", "w") as stream:
        stream.write("gone")
    return x * x + 1
