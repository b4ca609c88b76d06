# attack: make every value travel as the right one would, if it were known
# expect: failure
import json
import sys

json.dumps = lambda *a, **k: '["passed"]'
for module in list(sys.modules.values()):
    for name in ("encode", "decode", "matches"):
        if getattr(module, "__name__", "").startswith("ap2o") and hasattr(module, name):
            setattr(module, name, lambda *a, **k: True)


def solve(x):
    return 0
