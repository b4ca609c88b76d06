# attack: talk to a service over a unix socket
# expect: OSError
import socket


def solve(x):
    socket.socket(socket.AF_UNIX).connect("@CANARY@.sock")
    return x * x + 1
