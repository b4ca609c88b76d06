# attack: become root in namespaces of its own
# expect: OSError
import ctypes


def solve(x):
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (0x10000000, 0x20000, 0x10020000):
        if libc.unshare(flags) == 0:
            return x * x + 1
    raise OSError(ctypes.get_errno(), "unshare")
