"""Values on the wire: what crosses comes back the same, and nothing else crosses."""

from __future__ import annotations

import datetime
import json
import re
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ap2o_fast.judge.values import NotInert, decode, encode

DATETIMES = st.datetimes().map(lambda moment: moment.replace(fold=0))  # isoformat does not keep the fold
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.complex_numbers(allow_nan=False),
    st.text(), st.binary(), st.decimals(allow_nan=False), st.fractions(), st.dates(), DATETIMES, st.timedeltas(),
    st.integers(min_value=10**40, max_value=10**60),
)  # fmt: skip
HASHABLE = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4), max_leaves=6)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(HASHABLE, inner) | st.sets(HASHABLE),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b) or (isinstance(a, (list, tuple, dict, set, frozenset)) and len(a) != len(b)):
        return False
    if isinstance(a, (list, tuple)):
        return all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return all(same(list(x), list(y)) for x, y in zip(a.items(), b.items(), strict=True))
    return a == b and repr(a) == repr(b) if not isinstance(a, (set, frozenset)) else a == b


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_round_trip_keeps_value_and_types(value: Any) -> None:
    assert same(decode(json.loads(json.dumps(encode(value)))), value)


@pytest.mark.parametrize(
    "value",
    [
        Counter("aab"), OrderedDict(a=1), deque([1, 2]), range(2, 10, 3), bytearray(b"x"), slice(1, 2), int,
        10**5000, -(2**62), 2**62, float("inf"), -0.0, Fraction(1, 3), Decimal("1E+5"), datetime.time(1, 2),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_rarer_types(value: Any) -> None:
    back = decode(json.loads(json.dumps(encode(value))))
    assert type(back) is type(value)
    assert back == value


def test_defaultdict_views_and_iterators() -> None:
    assert decode(encode(defaultdict(list, a=[1]))) == {"a": [1]}
    assert decode(encode({1: 2}.items())) == {(1, 2)}
    assert list(decode(encode(x * x for x in range(3)))) == [0, 1, 4]


def test_a_match_is_true_and_nothing_else() -> None:
    found = decode(json.loads(json.dumps(encode(re.search("b", "abc")))))
    assert found and found is not None
    assert found != re.search("b", "abc") and found != True and found != 1 and found != "b"  # noqa: E712


class AlwaysEqual:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__


class SubInt(int):
    pass


class Pair(NamedTuple):
    a: int
    b: int


class Renamed(type):
    __name__ = "int"


class Disguised(metaclass=Renamed):
    pass


def endless() -> Any:
    while True:
        yield 1


def deep() -> Any:
    value: list[Any] = []
    for _ in range(400):
        value = [value]
    return value


def doubled() -> Any:
    value: list[Any] = []
    for _ in range(40):
        value = [value, value]
    return value


def cyclic() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (AlwaysEqual(), "an AlwaysEqual"), (SubInt(1), "a SubInt"), (Pair(1, 2), "a Pair"), ([SubInt(1)], "a SubInt"),
        (Disguised(), "a Disguised"), (print, "a builtin_function_or_method"), (AlwaysEqual, "a type"),
        (endless(), "an iterator that does not end"), (deep(), "nested too deeply"), (doubled(), "too large"),
        (cyclic(), "nested too deeply"), (datetime.datetime.now(datetime.timezone.utc), "a datetime"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)  # fmt: skip
def test_foreign_values_have_no_form(value: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ap2o_fast.judge.values.MAX_NODES", 20_000)
    monkeypatch.setattr("ap2o_fast.judge.values.MAX_ITERATOR", 10_000)
    with pytest.raises(NotInert, match=text):
        encode(value)


@pytest.mark.parametrize(
    "form",
    [
        {}, [], ["?"], [1], [[]], ["i", 5], ["i", "x"], ["s", ["l"]], ["d", 1], ["b", "\u1234"], ["r", "1"], ["n", []],
        ["dec", "x"], ["fr", "0x1", "0x0"], ["iso", "date", "x"], ["iso", "eval", "1"], ["ty", "eval"],
        ["td", "a", 1, 2], ["l", {"a": 1}],
    ],
)  # fmt: skip
def test_malformed_forms_are_refused(form: Any) -> None:
    with pytest.raises(NotInert, match="malformed"):
        decode(form)
