# attack: crash the interpreter
# expect: OtherError
import ctypes


def solve(x):
    return ctypes.string_at(8)
