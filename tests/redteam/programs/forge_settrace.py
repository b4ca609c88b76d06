# attack: jump over the asserts of every frame
# expect: failure
import sys


def tracer(frame, event, arg):
    try:
        frame.f_trace_lines = True
        frame.f_lineno = frame.f_lineno + 1
    except Exception:
        pass
    return tracer


def solve(x):
    frame = sys._getframe()
    while frame is not None:
        frame.f_trace = tracer
        frame = frame.f_back
    sys.settrace(tracer)
    return 0
