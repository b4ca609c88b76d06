# attack: read the trainer's environment
# expect: OSError
def solve(x):
    with open("/proc/@PID@/environ", "rb") as stream:
        return stream.read()
