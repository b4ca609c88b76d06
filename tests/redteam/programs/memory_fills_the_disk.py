# attack: fill the disk with files
# expect: OSError WrongResult TimeoutError
def solve(x):
    for number in range(50):
        with open(f"f{number}", "wb") as stream:
            stream.write(b"x" * 4_000_000)
