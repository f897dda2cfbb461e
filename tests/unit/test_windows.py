"""Windows of users' lists: against a plain slow form, and back to every list, bit for bit."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_storage.dedup.expand import collapse_table, offsets_from_lengths
from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.runs import single_chunk
from dedup_storage.demo import complete_journey
from dedup_storage.demo import ebnerd as ebnerd_log
from dedup_storage.windows import Events, Lists, Rules, Windows, events_after, match, rebuild
from dedup_storage.windows.rebuild import differing, identical

Run = tuple[int, int]


@dataclass
class SlowUser:
    """One user's list, and each logged list as runs in it (``None``: it stays a list)."""

    events: list[Any] = field(default_factory=list)
    misfits: int = 0
    laid: int = 0
    found: list[list[Run] | None] = field(default_factory=list)

    def take(self, tokens: Sequence[Any], rules: Rules) -> None:
        """The algorithm of docs/user-grain.md, as plainly as it can be said."""
        tokens = list(tokens)
        runs = self._one_piece(tokens) if tokens else []
        if runs is None:
            runs, new = self._pieces(tokens, rules)
            if len(new) + rules.run_tokens * (len(runs) - 1) > len(tokens):
                self.misfits += 1
                runs, new = None, []
                if self.misfits & (self.misfits - 1) == 0:
                    self.laid = len(self.events)
                    self.events += tokens
                    self.found.append([(self.laid, len(tokens))])
                    return
            self.events += new
        self.found.append(runs)
        if runs and 2 * sum(max(0, min(length, start + length - self.laid)) for start, length in runs) >= len(tokens):
            self.misfits = 0

    def _one_piece(self, tokens: list[Any]) -> list[Run] | None:
        size = len(self.events)
        for start in range(max(0, size - 2 * len(tokens) - 64), size):
            overlap = min(len(tokens), size - start)
            if self.events[start : start + overlap] == tokens[:overlap]:
                if len(tokens) > 2 * overlap:
                    return None
                self.events += tokens[overlap:]
                return [(start, len(tokens))]
        if size:
            return None
        self.events += tokens
        return [(0, len(tokens))]

    def _pieces(self, tokens: list[Any], rules: Rules) -> tuple[list[Run], list[Any]]:
        size, at, runs, new = len(self.events), 0, [], []
        while at < len(tokens):
            places = [p for p in range(size - 1, -1, -1) if self.events[p] == tokens[at]][: rules.places]
            if not places:
                runs.append((size + len(new), 1))
                new.append(tokens[at])
                at += 1
                continue
            start, length = max(((p, self._alike(tokens, at, p)) for p in places), key=lambda found: found[1])
            runs.append((start, length))
            at += length
            rest = tokens[at:]
            if rest and start + length == size and 2 * len(rest) <= len(tokens):
                runs.append((size + len(new), len(rest)))
                new += rest
                break
        return joined(runs), new

    def _alike(self, tokens: list[Any], at: int, place: int) -> int:
        length = 0
        while (
            at + length < len(tokens)
            and place + length < len(self.events)
            and self.events[place + length] == tokens[at + length]
        ):
            length += 1
        return length


def joined(runs: list[Run]) -> list[Run]:
    """Runs that follow each other in the user's list as one."""
    whole: list[Run] = []
    for start, length in runs:
        if whole and sum(whole[-1]) == start:
            whole[-1] = (whole[-1][0], whole[-1][1] + length)
        else:
            whole.append((start, length))
    return whole


def lists_of(histories: Sequence[Sequence[Sequence[Any]]], kind: pa.DataType | None = None) -> Lists:
    """Every user's lists, of one column."""
    users = [u for u, lists in enumerate(histories) for _ in lists]
    lengths = [len(tokens) for lists in histories for tokens in lists]
    values = pa.array([t for lists in histories for tokens in lists for t in tokens], kind or pa.int64())
    return Lists(np.array(users, dtype=np.int64), len(histories), offsets_from_lengths(lengths), {"item": values})


def told(lists: Lists, windows: Windows) -> list[list[Run] | None]:
    """The windows as the slow form says them."""
    bounds = windows.run_offsets
    runs = list(zip(windows.starts.tolist(), windows.lengths.tolist(), strict=True))
    return [None if windows.kept[i] else runs[bounds[i] : bounds[i + 1]] for i in range(len(lists.users))]


def given_back(lists: Lists, windows: Windows, events: Events) -> None:
    """Every list that is no kept one comes back from its windows."""
    offsets, columns = rebuild(windows, lists.users, events)
    lengths = np.where(windows.kept, 0, lists.lengths)
    assert np.array_equal(np.diff(offsets), lengths)
    tokens = np.repeat(~windows.kept, lists.lengths)
    for name, values in lists.columns.items():
        assert identical(columns[name], values.filter(pa.array(tokens))).all()


@st.composite
def served(draw: st.DrawFn) -> list[list[int]]:
    """One user's lists as a server of histories makes them: it slides, caps, loses, inserts, forgets, begins anew."""
    cap = draw(st.integers(1, 12))
    most = draw(st.sampled_from([2, 6, 1000]))
    history: list[int] = []
    lists = []
    for _ in range(draw(st.integers(0, 10))):
        for _ in range(draw(st.integers(0, 4))):
            token = draw(st.integers(0, most)) if most < 1000 else len(history) + 1000 * len(lists)
            history.insert(len(history) - min(len(history), draw(st.sampled_from([0, 0, 0, 0, 2]))), token)
        what = draw(st.sampled_from(["newest"] * 6 + ["capped", "deleted", "anew", "chosen", "turned", "older"]))
        if what == "capped":
            cap = draw(st.integers(1, 12))
        if what == "deleted" and history:
            history.pop(draw(st.integers(0, len(history) - 1)))
        if what == "anew":
            history = []
        shown = history[-cap:]
        if what == "chosen":
            shown = [t for t in history if draw(st.booleans())]
        if what == "turned":
            shown = shown[::-1]
        if what == "older":
            shown = history[: draw(st.integers(0, 12))]
        lists.append(shown)
    return lists


@given(
    st.lists(served(), max_size=5), st.integers(1, 5), st.integers(1, 4), st.sampled_from([1, 7, 2_000_000]),
)  # fmt: skip
def test_windows_equal_the_slow_form_and_every_list_comes_back(
    histories: list[list[list[int]]], run_tokens: int, places: int, part_tokens: int
) -> None:
    rules = Rules(run_tokens, places)
    slow = [SlowUser() for _ in histories]
    for user, lists in zip(slow, histories, strict=True):
        for tokens in lists:
            user.take(tokens, rules)
    lists = lists_of(histories)
    windows = match(lists, rules=rules, part_tokens=part_tokens)
    events = events_after(Events.none(lists), lists, windows)
    assert told(lists, windows) == [runs for user in slow for runs in user.found]
    assert events.columns["item"].to_pylist() == [t for user in slow for t in user.events]
    assert np.diff(events.offsets).tolist() == [len(user.events) for user in slow]
    assert windows.memory.misfits.tolist() == [user.misfits for user in slow]
    assert windows.memory.laid.tolist() == [user.laid for user in slow]
    given_back(lists, windows, events)


@given(st.lists(served(), min_size=1, max_size=4), st.integers(0, 9))
def test_a_day_matched_against_stored_lists_is_as_if_all_came_at_once(
    histories: list[list[list[int]]], before: int
) -> None:
    whole = lists_of(histories)
    at_once = match(whole)
    stored, memory = Events.none(whole), None
    days = [lists_of([lists[:before] for lists in histories]), lists_of([lists[before:] for lists in histories])]
    runs = []
    for day in days:
        windows = match(day, stored, memory=memory)
        stored, memory = events_after(stored, day, windows), windows.memory
        given_back(day, windows, stored)
        runs.append(iter(told(day, windows)))
    expected = events_after(Events.none(whole), whole, at_once)
    assert stored.columns["item"].equals(expected.columns["item"])
    assert np.array_equal(stored.offsets, expected.offsets)
    place = np.concatenate([np.arange(len(lists)) for lists in histories]) if len(whole.users) else []
    assert [next(runs[int(i >= before)]) for i in place] == told(whole, at_once)


BITS = np.array([0x7FF8000000000000, 0x7FF8000000000001, 0x8000000000000000, 0], dtype=np.uint64).view(np.float64)
KINDS = {
    "two NaNs and two zeros": (pa.float64(), [*BITS, 1.5, None]),
    "half floats": (pa.float16(), [np.float16(0.0), np.float16(-0.0), np.float16(math.nan), None, np.float16(2), None]),
    "texts": (pa.string(), ["a", "", None, "ä", "aa", "b"]),
    "flags": (pa.bool_(), [True, False, None, True, False, None]),
    "times": (pa.timestamp("us", "UTC"), [1, 2, None, -1, 0, 3]),
    "decimals": (pa.decimal128(9, 2), [1, 2, None, 0, -1, 3]),
    "structs": (pa.struct([("a", pa.int8()), ("b", pa.float32())]),
                [{"a": 1, "b": 0.0}, {"a": 1, "b": -0.0}, None, {"a": None, "b": 1.0}, {"a": 2, "b": None}, None]),
    "lists": (pa.list_(pa.float64()), [[], None, [0.0], [-0.0], [None], [1.0, 2.0]]),
    "maps": (pa.map_(pa.string(), pa.int32()), [[("k", 1)], [("k", 2)], None, [], [("k", None)], [("l", 1)]]),
    "fixed lists": (pa.list_(pa.int8(), 2), [[1, 2], [1, 3], None, [None, 2], [0, 0], [2, 1]]),
    "no type": (pa.null(), [None] * 6),
}  # fmt: skip


@pytest.mark.parametrize("what", KINDS)
def test_values_of_every_type_come_back_bit_for_bit(what: str) -> None:
    kind, few = KINDS[what]
    values = pa.array(few, kind)
    assert identical(values, values).all()
    turned = pa.array(few[1:] + few[:1], kind)
    both_null = np.array([a is None and b is None for a, b in zip(few, few[1:] + few[:1], strict=True)])
    assert np.array_equal(identical(values, turned) & ~both_null, np.zeros(6, dtype=bool)) or what == "no type"
    # Windows of 4 that slide by one over a repeating series, and the same taken apart into dictionaries.
    slides = np.concatenate([np.arange(i, i + 4) % 6 for i in range(8)])
    column = values.take(pa.array(slides))
    columns = {"x": column, "y": pa.array(slides % 6, pa.int16())}
    if pa.types.is_string(kind):
        columns["z"] = column.dictionary_encode()
    lists = Lists(np.zeros(8, dtype=np.int64), 1, np.arange(0, 33, 4), columns)
    windows = match(lists)
    assert len(windows.new) < 20
    given_back(lists, windows, events_after(Events.none(lists), lists, windows))


def test_a_list_that_equal_hashes_misled_stays_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = lists_of([[[1, 2, 3, 4], [2, 3, 4, 5], [2, 3, 9, 5], [3, 4, 5, 6]]])
    honest = match(lists)
    assert not honest.kept.any()
    module = importlib.import_module("dedup_storage.windows.match")
    # Every token but the first of a list looks like the event one further: the third list is taken for the second.
    monkeypatch.setattr(module, "_hashes", lambda of: np.array(
        [4 if v == 9 else v for v in of.columns["item"].to_pylist()], dtype=np.uint64))  # fmt: skip
    windows = match(lists)
    assert windows.kept.tolist() == [False, False, True, False]
    after = events_after(Events.none(lists), lists, windows)
    given_back(lists, windows, after)
    assert differing(lists, windows, after).sum() == 0
    assert differing(lists, match(lists, compared=False), after).tolist() == [False, False, True, False]


def test_how_histories_are_served_decides_what_is_stored() -> None:
    series = list(range(1000))
    sliding = [series[i * 5 : i * 5 + 50] for i in range(20)]
    assert [runs for runs in told(*_matched(sliding)) if runs != [(0, 0)]] == [[(i * 5, 50)] for i in range(20)]
    # The newest 50 of a list of which one event came late: two cuts, one event added.
    late = [*series[:45], *series[46:50]], series[1:51]
    assert told(*_matched(late)) == [[(0, 49)], [(1, 44), (49, 1), (45, 4), (50, 1)]]
    # An item that is bought again is the list's new end, not the event of long ago.
    again = [1, 2, 3, 4], [2, 3, 4, 1], [3, 4, 1, 5]
    assert told(*_matched(again)) == [[(0, 4)], [(1, 4)], [(2, 4)]]
    # Lists chosen by the request: the first two and the fourth are laid down, the others stay lists.
    rng = np.random.default_rng(1)
    chosen = [rng.choice(1000, 40, replace=False).tolist() for _ in range(9)]
    _, windows = _matched([series, *chosen])
    assert windows.kept.tolist() == [False, False, False, True, False, True, True, True, False, True]
    assert len(windows.new) == 1000 + 4 * 40


def test_newest_first_is_the_same_turned() -> None:
    histories = [[[5, 4, 3], [7, 6, 5, 4], [], [8, 7, 6]]]
    lists = lists_of(histories).turned()
    assert told(lists, match(lists)) == [[(0, 3)], [(1, 4)], [], [(3, 3)]]
    assert lists.turned().columns["item"].to_pylist() == [5, 4, 3, 7, 6, 5, 4, 8, 7, 6]


def test_public_logs_come_back_from_one_run_a_request(ebnerd: Path, tmp_path: Path) -> None:
    news = pq.read_table(ebnerd / "behaviors.parquet", columns=["user_id", "impression_time"])
    history = pq.read_table(ebnerd / "history.parquet")
    news = news.sort_by([("user_id", "ascending"), ("impression_time", "ascending")])
    place = pc.index_in(news["user_id"], history["user_id"].combine_chunks()).combine_chunks()
    columns = {name: history[name].combine_chunks().take(place) for name in ebnerd_log.HISTORY}
    _comes_back(news["user_id"], columns)

    complete_journey.write_log(tmp_path, share=0.01, max_length=64)
    keys = ["household_id", "transaction_timestamp", "basket_id"]
    rows = pq.read_table(tmp_path).sort_by([(key, "ascending") for key in keys])
    baskets, _ = collapse_table(rows, keys, [*keys, *complete_journey.HISTORY.values()])
    columns = {name: single_chunk(baskets[name]) for name in complete_journey.HISTORY.values()}
    _comes_back(baskets["household_id"], columns)


def _comes_back(users: pa.ChunkedArray, columns: dict[str, pa.Array]) -> None:
    """Match the lists of requests that are sorted by user and time, and rebuild them."""
    parts = {name: list_parts(array) for name, array in columns.items()}
    _, numbers = np.unique(users.to_numpy(), return_inverse=True)
    offsets = next(iter(parts.values()))[1]
    lists = Lists(numbers, int(numbers[-1]) + 1, offsets, {name: values for name, (values, _) in parts.items()})
    windows = match(lists)
    assert not windows.kept.any()
    assert len(windows.new) < lists.num_tokens / 5
    assert windows.runs.max() == 1
    given_back(lists, windows, events_after(Events.none(lists), lists, windows))


def _matched(histories: Sequence[list[int]]) -> tuple[Lists, Windows]:
    lists = lists_of([list(histories)])
    return lists, match(lists)
