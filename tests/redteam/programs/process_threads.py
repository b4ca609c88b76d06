# attack: a bomb of threads
# expect: RuntimeError
import threading
import time


def solve(x):
    while True:
        threading.Thread(target=time.sleep, args=(100,)).start()
