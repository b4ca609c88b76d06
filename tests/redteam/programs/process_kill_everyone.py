# attack: kill the parent and everyone in reach
# expect: OSError
import os


def solve(x):
    for target in (os.getppid(), @PID@, 1):
        try:
            os.kill(target, 0)  # asks for the right to signal and harms nobody where the defence is gone
        except ProcessLookupError:
            pass
    return x * x + 1
