"""Inert values: how arguments and results cross between the examiner and an answer's process.

Only exact builtin and standard-library types cross, tested with ``type(x) is``, never ``isinstance``: an object whose
``__eq__`` always says yes, or a subclass of ``int``, has no form on the wire. Scalars that JSON keeps are themselves;
everything else is a list whose first item names the type. Aliasing inside a value is lost; a cycle exceeds the depth.

An iterator (generator, map, zip…) crosses as the items it yields and arrives as a list's iterator, so that
``list(f(x)) == …`` works and ``f(x) == […]`` is as false as it is in Python. NumPy scalars arrive as Python's. What a
regular expression found arrives as a match of nothing: it is true, as ``assert f(x)`` asks, and equals nothing.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import itertools
import re
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

MAX_DEPTH = 150
MAX_NODES = 2_000_000
MAX_ITERATOR = 200_000
_SMALL = 1 << 62

_SEQUENCES: dict[type, str] = {
    list: "l",
    tuple: "t",
    set: "s",
    frozenset: "f",
    collections.deque: "q",
    type({}.keys()): "dk",
    type({}.values()): "dv",
}
_EMPTY: tuple[Iterable[Any], ...] = ([], (), "", b"", set(), {}, range(0), {}.values(), {}.items())
_ITERATORS = frozenset(
    [types.GeneratorType, map, filter, zip, enumerate, reversed, itertools.chain, itertools.islice, itertools.product]
    + [itertools.permutations, itertools.combinations, itertools.accumulate, itertools.zip_longest, itertools.starmap]
    + [itertools.takewhile, itertools.dropwhile, itertools.compress, itertools.combinations_with_replacement]
    + [itertools.count, itertools.cycle, itertools.repeat]
    + [type(iter(empty)) for empty in _EMPTY]
    + [type(reversed([])), type(reversed({}))]
)
_MAPPINGS: dict[type, str] = {
    dict: "d",
    collections.Counter: "C",
    collections.OrderedDict: "O",
    collections.defaultdict: "D",
    type({}.items()): "di",
}


_TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (int, float, complex, str, bytes, bool, list, tuple, dict, set, frozenset, range, object)
}


class NotInert(Exception):
    """A value that cannot cross. The text says what it is, as in "a Pair" or "a value nested too deeply"."""


def encode(value: Any) -> Any:
    """The JSON form of a value. Raises `NotInert` for any other type, and beyond the limits of depth and size."""
    return _Encoder().encode(value, 0)


def decode(form: Any) -> Any:
    """The value of a JSON form made by `encode`. Raises `NotInert` for anything that `encode` does not make."""
    try:
        return _decode(form)
    except (TypeError, ValueError, KeyError, IndexError, ArithmeticError, RecursionError, MemoryError) as error:
        raise NotInert(f"a malformed value ({type(error).__name__})") from None


def tags(form: Any) -> set[str]:
    """The types that a form made by `encode` names; scalars that JSON keeps name none."""
    if type(form) is not list:
        return set()
    return {form[0]}.union(*(tags(item) for item in form[1:]))


class _Encoder:
    def __init__(self) -> None:
        self.nodes = 0

    def encode(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if type(kind) is not type and kind is not fractions.Fraction:
            raise NotInert(describe_type(kind))  # a metaclass may answer for what its classes equal
        if kind is str or kind is bool or value is None:
            return value
        if kind is int:
            return value if -_SMALL < value < _SMALL else ["i", hex(value)]
        if kind is float:
            return value if value - value == 0 else ["n", repr(value)]
        if depth >= MAX_DEPTH:
            raise NotInert("a value nested too deeply")
        tag = _SEQUENCES.get(kind)
        if tag is not None:
            return self._items(tag, value, len(value), depth)
        tag = _MAPPINGS.get(kind)
        if tag is not None:
            pairs = value if tag == "di" else value.items()
            return self._items(tag, itertools.chain.from_iterable(pairs), 2 * len(value), depth)
        if kind in _ITERATORS:
            items = list(itertools.islice(value, MAX_ITERATOR + 1))
            if len(items) > MAX_ITERATOR:
                raise NotInert("an iterator that does not end")
            return self._items("it", items, len(items), depth)
        return _encode_rare(kind, value)

    def _items(self, tag: str, items: Any, count: int, depth: int) -> list[Any]:
        self.nodes += count
        if self.nodes > MAX_NODES:
            raise NotInert("too large a value")
        encode_one, below = self.encode, depth + 1
        return [tag, *[encode_one(item, below) for item in items]]


def _encode_rare(kind: type, value: Any) -> Any:
    if kind is bytes or kind is bytearray:
        return ["b" if kind is bytes else "ba", value.decode("latin-1")]
    if kind is complex:
        return ["c", repr(value.real), repr(value.imag)]
    if kind is range:
        return ["r", hex(value.start), hex(value.stop), hex(value.step)]
    if kind is slice:
        return ["sl", *[encode(part) for part in (value.start, value.stop, value.step)]]
    if kind is decimal.Decimal:
        return ["dec", str(value)]
    if kind is fractions.Fraction:
        return ["fr", hex(value.numerator), hex(value.denominator)]
    if kind is datetime.timedelta:
        return ["td", value.days, value.seconds, value.microseconds]
    if (kind in (datetime.datetime, datetime.time) and value.tzinfo is None) or kind is datetime.date:
        return ["iso", kind.__name__, value.isoformat()]
    if kind is re.Match:
        return ["re"]
    if kind is type and value in _TYPES.values():
        return ["ty", value.__name__]
    if kind.__module__ == "numpy":
        numpy = sys.modules.get("numpy")
        name = kind.__name__
        if numpy is not None and getattr(numpy, name, None) is kind and issubclass(kind, (numpy.number, numpy.bool_)):
            return encode(value.item())
    raise NotInert(describe_type(kind))


def describe_type(kind: type) -> str:
    """ "a Pair", "an int_": how a message names a foreign type. Never asks the type itself for its text."""
    name = type.__dict__["__name__"].__get__(kind)
    if kind.__module__ == "numpy":
        name = f"numpy.{name}"
    return ("an " if name[:1].lower() in "aeiou" else "a ") + name[:80]


def _decode(form: Any) -> Any:
    if type(form) is not list:
        if type(form) is dict:
            raise TypeError("an object")
        return form
    return _DECODERS[form[0]](form)


def _rest(form: list[Any]) -> list[Any]:
    return [_decode(item) for item in itertools.islice(form, 1, None)]


def _pairs(form: list[Any]) -> dict[Any, Any]:
    items = _rest(form)
    if len(items) % 2:
        raise ValueError("a key without a value")
    return dict(zip(items[::2], items[1::2], strict=True))


def _strings(form: list[Any], count: int) -> list[str]:
    parts = form[1:]
    if len(parts) != count or any(type(part) is not str for part in parts):
        raise TypeError("not strings")
    return parts


def _numbers(form: list[Any], count: int) -> list[int]:
    return [int(part, 16) for part in _strings(form, count)]


def _iso(form: list[Any]) -> Any:
    name, text = _strings(form, 2)
    kinds: dict[str, Any] = {"date": datetime.date, "time": datetime.time, "datetime": datetime.datetime}
    return kinds[name].fromisoformat(text)


def _defaultdict(form: list[Any]) -> Any:
    return collections.defaultdict(None, _pairs(form))


_DECODERS: dict[str, Callable[[list[Any]], Any]] = {
    "l": _rest,
    "t": lambda form: tuple(_rest(form)),
    "s": lambda form: set(_rest(form)),
    "f": lambda form: frozenset(_rest(form)),
    "q": lambda form: collections.deque(_rest(form)),
    "it": lambda form: iter(_rest(form)),
    "dk": lambda form: dict.fromkeys(_rest(form)).keys(),
    "dv": lambda form: dict(enumerate(_rest(form))).values(),
    "d": _pairs,
    "di": lambda form: _pairs(form).items(),
    "C": lambda form: collections.Counter(_pairs(form)),
    "O": lambda form: collections.OrderedDict(_pairs(form)),
    "D": _defaultdict,
    "i": lambda form: _numbers(form, 1)[0],
    "n": lambda form: float(_strings(form, 1)[0]),
    "b": lambda form: _strings(form, 1)[0].encode("latin-1"),
    "ba": lambda form: bytearray(_strings(form, 1)[0].encode("latin-1")),
    "c": lambda form: complex(*[float(part) for part in _strings(form, 2)]),
    "r": lambda form: range(*_numbers(form, 3)),
    "sl": lambda form: slice(*_rest(form)),
    "dec": lambda form: decimal.Decimal(_strings(form, 1)[0]),
    "fr": lambda form: fractions.Fraction(*_numbers(form, 2)),
    "td": lambda form: datetime.timedelta(*form[1:4]),
    "iso": _iso,
    "re": lambda form: re.match("", ""),
    "ty": lambda form: _TYPES[_strings(form, 1)[0]],
}
