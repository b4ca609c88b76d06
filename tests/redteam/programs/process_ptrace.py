# attack: trace another process
# expect: OSError
import ctypes


def solve(x):
    libc = ctypes.CDLL(None, use_errno=True)
    for target in (@PID@, 1):
        if libc.ptrace(0x4206, target, 0, 0) == 0:
            return x * x + 1
    raise OSError(ctypes.get_errno(), "ptrace")
