# attack: send a datagram
# expect: OSError
import socket


def solve(x):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"stolen", ("127.0.0.1", @PORT@))
    return x * x + 1
