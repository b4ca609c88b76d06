# attack: lower the limits of another process of the same user
# expect: OSError
import resource


def solve(x):
    resource.prlimit(@PID@, resource.RLIMIT_NOFILE)  # reading needs the same right as setting
    return x * x + 1
