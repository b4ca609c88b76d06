"""Ctrl-C once asks for an end, twice ends at once."""

from __future__ import annotations

import signal

import pytest

from ap2o_fast.interrupt import ASKED, Interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_does_not_wait_for_the_step(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
        assert not interrupt.asked
        signal.raise_signal(number)
        assert interrupt.asked
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_one_within_another_knows_what_was_asked_before_and_tells_once() -> None:
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt), Interrupt(told.append) as outer:
        signal.raise_signal(signal.SIGINT)
        with Interrupt(told.append) as inner:
            assert inner.asked and outer.asked
            signal.raise_signal(signal.SIGINT)
    assert told == [ASKED]
