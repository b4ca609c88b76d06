# attack: run a program
# expect: OSError
import subprocess


def solve(x):
    return subprocess.run(["touch", "@CANARY@.pwned"]).returncode
