# attack: ignore every signal, then compute for ever
# expect: TimeoutError
import signal

for number in range(1, signal.NSIG):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass


def solve(x):
    while True:
        pass
