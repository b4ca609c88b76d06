# attack: connect to a service on this machine
# expect: OSError
import socket


def solve(x):
    with socket.create_connection(("127.0.0.1", @PORT@), timeout=2) as connection:
        connection.sendall(b"stolen")
    return x * x + 1
