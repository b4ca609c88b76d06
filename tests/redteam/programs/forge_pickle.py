# attack: send a pickle that runs a command where it is loaded
# expect: WrongResult
import os
import pickle


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch @CANARY@.pwned",))


def solve(x):
    body = pickle.dumps(Bomb())
    os.write(3, len(body).to_bytes(4, "big") + body)
    return 0
