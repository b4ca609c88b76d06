# attack: kill the parent and everyone in reach
# expect: OSError
import os
import signal


def solve(x):
    for target in (os.getppid(), @PID@, -1, 0, 1):
        try:
            os.kill(target, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return x * x + 1
