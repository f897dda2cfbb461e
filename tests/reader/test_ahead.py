"""Batches made ahead: in order, no more than asked for, and what was made before an error comes before it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

import pytest

from dedup_storage.reader.epoch.ahead import Ahead


@dataclass(frozen=True)
class Made:
    """What stands for a batch."""

    number: int
    num_bytes: int


class Source:
    """Makes batches of one size, then fails if told to."""

    def __init__(self, count: int, num_bytes: int, *, fails: bool = False) -> None:
        self.made, self.closed = 0, False
        self._batches = self._make(count, num_bytes, fails)

    def _make(self, count: int, num_bytes: int, fails: bool) -> Iterator[Made]:
        for number in range(count):
            self.made += 1
            yield Made(number, num_bytes)
        if fails:
            raise ValueError("no more")

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> Made:
        return next(self._batches)

    def close(self) -> None:
        """Called when nobody wants more."""
        self.closed = True


# Batches that are at hand when the consumer has just taken one: two, or two handfuls.
_AT_HAND = [(1 << 20, False, 2), (1, True, 2), (1, False, 24), (0, False, 24)]


@pytest.mark.parametrize(("num_bytes", "single", "most"), _AT_HAND)
@pytest.mark.parametrize("fails", [False, True])
def test_batches_come_in_order_and_no_more_are_made_than_asked_for(
    num_bytes: int, single: bool, most: int, fails: bool
) -> None:
    source = Source(100, num_bytes, fails=fails)
    ahead = Ahead(source, threading.Event(), 2, None if single else attrgetter("num_bytes"))
    for taken in range(100):
        assert next(ahead).number == taken
        assert source.made <= taken + 1 + most
    with pytest.raises(ValueError if fails else StopIteration):
        next(ahead)
    ahead.close()
    assert source.closed


def test_nothing_is_made_behind_the_first_before_somebody_has_it() -> None:
    source = Source(10, 1)
    ahead = Ahead(source, threading.Event(), 4, None)
    ahead.thread.join(timeout=0.2)
    assert source.made == 1
    assert [made.number for made in ahead] == list(range(10))
    ahead.close()


def test_who_stops_gets_no_more() -> None:
    source, stop = Source(1000, 1), threading.Event()
    ahead = Ahead(source, stop, 2, attrgetter("num_bytes"))
    assert next(ahead).number == 0
    stop.set()
    ahead.close()
    assert source.closed
    assert source.made < 1000
