# attack: an encoding line that runs a codec
# expect: SyntaxError
# -*- coding: utf-8 -*-
def solve(x):
    return "@NUL@"
