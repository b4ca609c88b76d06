# attack: escape sequences in a message that reaches a terminal or a page
# expect: ValueError
def solve(x):
    raise ValueError("\x1b]0;owned\x07\x1b[2J<script>alert(1)</script>\u202e")
