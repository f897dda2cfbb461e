"""Numbers and nouns in messages."""

from __future__ import annotations

import pytest

from dedup_storage.words import counted, human_bytes


@pytest.mark.parametrize(
    ("count", "noun", "verb", "text"),
    [
        (0, "row", "", "0 rows"),
        (1, "row", "", "1 row"),
        (2, "row", "", "2 rows"),
        (1, "request row", "repeats", "1 request row repeats"),
        (2, "request row", "repeats", "2 request rows repeat"),
        (1, "impression", "has", "1 impression has"),
        (3, "impression", "has", "3 impressions have"),
        (2, "batch", "was", "2 batches were"),
        (1200, "entry", "is", "1,200 entries are"),
        (2, "day", "", "2 days"),
    ],
)
def test_nouns_and_verbs_follow_the_number(count: int, noun: str, verb: str, text: str) -> None:
    assert counted(count, noun, verb) == text


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (128_800_000, "128.8 MB"), (3e15, "3000.0 TB")]
)
def test_human_bytes(size: float, shown: str) -> None:
    assert human_bytes(size) == shown


def test_every_power_of_a_thousand_has_its_unit() -> None:
    assert [human_bytes(10 ** (3 * n)) for n in range(5)] == ["1 B", "1.0 kB", "1.0 MB", "1.0 GB", "1.0 TB"]
