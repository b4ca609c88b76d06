# attack: lift the CPU limit
# expect: TimeoutError ValueError OSError
import resource


def solve(x):
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        pass
    while True:
        pass
