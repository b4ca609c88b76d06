# attack: a coroutine in place of a result
# expect: WrongResult
async def solve(x):
    return x * x + 1
