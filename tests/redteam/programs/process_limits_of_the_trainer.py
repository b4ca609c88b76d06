# attack: lower the limits of another process of the same user
# expect: OSError
import resource


def solve(x):
    resource.prlimit(@PID@, resource.RLIMIT_NOFILE, (0, 0))
