# attack: read what lies in home folders and the machine's settings
# expect: WrongResult OSError
import os


def solve(x):
    return [os.listdir(place) for place in ("/home", "/root", "/etc", os.path.expanduser("~"))]
