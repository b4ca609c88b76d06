# attack: answer for the channel itself, then keep silent
# expect: WrongResult
import json
import os


def solve(x):
    body = json.dumps(["value", 0]).encode()
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, len(body).to_bytes(4, "big") + body)
        except OSError:
            pass
    while True:
        pass
