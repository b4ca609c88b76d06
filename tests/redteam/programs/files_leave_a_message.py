# attack: hand something to the next answer through the work folder, and expect it there
# expect: WrongResult OSError
import os


def solve(x):
    found = os.listdir(".") + os.listdir("/tmp")
    open("message", "w").close()
    return x * x + 1 if len([f for f in found if f == "message"]) > 0 and x == 2 else 0
