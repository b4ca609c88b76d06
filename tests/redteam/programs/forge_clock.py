# attack: stop the clocks
# expect: TimeoutError
import time

time.time = time.monotonic = time.perf_counter = time.process_time = lambda: 0.0


def solve(x):
    while True:
        pass
