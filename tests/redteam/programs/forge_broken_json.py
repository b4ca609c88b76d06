# attack: send what is no JSON, very deep
# expect: WrongResult
import os


def solve(x):
    body = b"[" * 100_000
    os.write(3, len(body).to_bytes(4, "big") + body)
    return 0
