"""Logs whose histories are no clean windows: late, deleted, ordered anew, capped, null, of unequal lengths, NaN."""

from __future__ import annotations

import datetime as dt
import math
import random
import struct
from collections import Counter
from typing import Any

from pyspark.sql import DataFrame

from dedup_storage.schema import LogSchema
from tests.spark.helpers import day

__all__ = ["TYPES", "bits", "late_rows", "odd_rows", "odd_schema"]

# Values that compare as equal, or as unequal to themselves, and are told apart by their bits.
_PLAIN_NAN, _OTHER_NAN = float("nan"), struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000123))[0]
_PRICES = [0.0, -0.0, _PLAIN_NAN, _OTHER_NAN, 1.5, None]
Event = tuple[int, Any, dt.datetime]
TYPES = (
    "u string, r bigint, ts timestamp, seen array<int>, paid array<double>, age array<bigint>, words array<string>, "
    "item bigint, y int"
)


def odd_schema(**changes: Any) -> LogSchema:
    """Schema of ``odd_rows``: a group of three columns, one of them of the request, and a list newest first."""
    values = {
        "user": "u", "request": "r", "item": "item", "event_time": "ts", "labels": "y", "date_grain": "day",
        "buckets": 2,
        "sequences": [
            {"column": "seen", "group": "g"}, {"column": "paid", "group": "g"}, {"column": "age", "group": "g"},
            {"column": "words"},
        ],
    }  # fmt: skip
    return LogSchema.from_dict({**values, **changes})


def odd_rows(days: list[int], seed: int = 0, users: int = 6, first: int = 0) -> list[tuple[Any, ...]]:
    """A flat log; the same days and seed give the same rows, and users' histories go on from day to day."""
    chosen, rows, request = random.Random(seed), [], first
    histories = {u: [_event(chosen, day(1)) for _ in range(30)] for u in range(users)}
    words = {u: _words(chosen, 9) for u in range(users)}
    for number in range(1, max(days) + 1):
        for user in range(users):
            for hour in range(chosen.randint(2, 5)):
                at, events = day(number, hour), histories[user]
                events += [_event(chosen, at) for _ in range(chosen.randint(0, 3))]
                words[user] += _words(chosen, chosen.randint(0, 2))
                made = _request(chosen, events, words[user], at)
                request += 1
                if number in days:
                    shown = [(100 * request + c, c % 2) for c in range(2)]
                    rows += [(f"user {user}", request, at, *made, item, label) for item, label in shown]
    return rows


def late_rows(days: list[int], seed: int = 0, users: int = 6, first: int = 0) -> list[tuple[Any, ...]]:
    """A log like that of ``odd_rows``, of up to five days; events come late: many runs, few in another order."""
    chosen, rows, request = random.Random(seed), [], first
    for user in range(users):
        # Java's one NaN alone: another one is not found again by a later write.
        prices = [chosen.choice([p for p in _PRICES if p is not _OTHER_NAN]) for _ in range(200)]
        words = [f"{word} {number}" for number, word in enumerate(_words(chosen, 200))]
        arrived = [n + (chosen.randint(2, 6) if chosen.random() < 0.12 else 0) for n in range(200)]
        end = 70
        for number in range(1, 6):
            for hour in range(5):
                end += chosen.randint(2, 5)
                there = [n for n in range(200) if arrived[n] < end][-chosen.randint(55, 60) :]
                if chosen.random() < 0.1:
                    # Deleted for good.
                    arrived[there[chosen.randrange(20)]] = 1000
                at = day(number, hour)
                seen: Any = None if chosen.random() < 0.05 else [n if n % 19 else None for n in there]
                lists = seen, [prices[n] for n in there], [end - n for n in there], [words[n] for n in there[::-1]]
                request += 1
                if number in days:
                    shown = [(100 * request + c, c % 2) for c in range(2)]
                    rows += [(f"user {user}", request, at, *lists, item, label) for item, label in shown]
    return rows


def _event(chosen: random.Random, at: dt.datetime) -> Event:
    return chosen.randint(0, 30), chosen.choice(_PRICES), at


def _words(chosen: random.Random, count: int) -> list[str]:
    return [chosen.choice(["", "é", "a\u0000b", "日本"]) + str(chosen.randint(0, 30)) for _ in range(count)]


def _request(chosen: random.Random, events: list[Event], words: list[str], at: dt.datetime) -> tuple[Any, ...]:
    odd = chosen.random()
    if odd < 0.07:
        del events[chosen.randrange(len(events))]
    elif odd < 0.1:
        chosen.shuffle(events)
    elif odd < 0.17:
        events.insert(len(events) - 2, (chosen.randint(0, 30), 7.0, at))
    listed = events[-chosen.choice([4, 30, 30, 30]) :] if odd < 0.95 else []
    seen: Any = [None if e[0] == 0 else e[0] for e in listed]
    paid: Any = [e[1] for e in listed]
    age: Any = [int((at - e[2]).total_seconds()) for e in listed]
    if 0.3 < odd < 0.34:
        seen = paid = age = None
    elif 0.34 < odd < 0.38:
        paid = None
    elif 0.38 < odd < 0.42:
        seen = seen[1:]
    return seen, paid, age, words[::-1][:9]


def bits(df: DataFrame) -> Counter[str]:
    """Rows as text that tells both zeros apart, with their number; Parquet's Java writer makes one NaN of all."""
    return Counter(repr(tuple(map(_plain, row))) for row in zip(*df.toArrow().to_pydict().values(), strict=True))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack("<d", value).hex()
    return [_plain(v) for v in value] if isinstance(value, list) else value
