# attack: write the protocol's success frames to every descriptor
# expect: failure
import json
import os


def frame(message):
    body = json.dumps(message).encode()
    return len(body).to_bytes(4, "big") + body


for descriptor in range(64):
    for message in ({"outcome": "passed", "passed": 3, "total": 3}, ["ready"], ["value", True], ["passed"]):
        try:
            os.write(descriptor, frame(message))
        except OSError:
            pass


def solve(x):
    return 0
