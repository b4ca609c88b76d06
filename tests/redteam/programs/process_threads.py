# attack: a bomb of threads
# expect: RuntimeError
import threading
import time


def solve(x):
    for _ in range(20):
        threading.Thread(target=time.sleep, args=(100,)).start()
    return x * x + 1
