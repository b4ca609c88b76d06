# attack: poison later imports
# expect: failure
import sys


class Finder:
    def find_spec(self, name, path=None, target=None):
        raise SystemExit(0)


sys.meta_path.insert(0, Finder())
sys.modules.pop("json", None)


def solve(x):
    return 0
