# attack: walk the stack and overwrite whatever looks like a verdict or an expectation
# expect: failure
import gc
import sys


def solve(x):
    frame = sys._getframe()
    while frame is not None:
        for space in (frame.f_globals, frame.f_locals):
            for name in list(space):
                if any(word in name for word in ("expect", "passed", "result", "verdict", "count", "total")):
                    space[name] = True
        frame = frame.f_back
    for thing in gc.get_objects():
        if type(thing) is dict and "outcome" in thing:
            thing["outcome"] = "passed"
    return 0
