# attack: look for expected values in its own memory and files
# expect: failure
import gc
import os


def solve(x):
    for thing in gc.get_objects():
        if isinstance(thing, dict) and "test" in thing and "entry_point" in thing:
            return 101
    for folder, _, files in os.walk("/"):
        if "redteam" in folder:
            return 101
    return 0
