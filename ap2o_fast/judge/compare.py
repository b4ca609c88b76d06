"""When a result counts as the expected one (problems with `inputs` and `expected`).

The rule is Python's ``==`` on inert values, so ``1 == 1.0 == True``, with these differences:

* NaN equals NaN.
* A list in given `expected` values is also matched by a tuple with equal items, because such data come from JSON,
  which has no tuples; a tuple is matched only by a tuple. Where the judge computed `expected` from the reference
  solution, types are known and neither matches the other.
* With ``atol > 0`` numbers may differ by ``atol + 1e-7 * |expected|`` (EvalPlus's tolerance), at any depth of lists,
  tuples and dictionary values.

A value with a different length or different dictionary keys is different; sets are compared by ``==``.
"""

from __future__ import annotations

from typing import Any

_RELATIVE = 1e-7
_NUMBERS = (int, float, complex, bool)


def matches(value: Any, expected: Any, *, atol: float = 0.0, json_lists: bool = False) -> bool:
    """True if `value` counts as `expected`.

    Args:
        value, expected: inert values.
        atol: absolute tolerance for numbers, 0 for none.
        json_lists: a list in `expected` stands for a tuple too.
    """
    # Most right results, at the speed of C. Equal values of one type match by every rule below.
    if type(value) is type(expected) and value == expected:
        return True
    return _matches(value, expected, atol, json_lists)


def _matches(value: Any, expected: Any, atol: float, json_lists: bool) -> bool:
    if isinstance(expected, (list, tuple)):
        kinds = (list, tuple) if json_lists and isinstance(expected, list) else type(expected)
        if not isinstance(value, kinds) or len(value) != len(expected):
            return False
        return all(_matches(a, b, atol, json_lists) for a, b in zip(value, expected, strict=True))
    if isinstance(expected, dict):
        if not isinstance(value, dict) or value.keys() != expected.keys():
            return False
        return all(_matches(value[key], item, atol, json_lists) for key, item in expected.items())
    if type(value) in _NUMBERS and type(expected) in _NUMBERS:
        if value == expected or (value != value and expected != expected):
            return True
        try:
            return atol > 0 and abs(value - expected) <= atol + _RELATIVE * abs(expected)
        except OverflowError:  # an int beyond floats
            return False
    return bool(value == expected)
