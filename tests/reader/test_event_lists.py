"""Lists from runs of events against plain Python: any runs, any files, any blocks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dedup_storage.layout import EventGroup
from dedup_storage.reader.decode.events import EventReader, plain_lists
from dedup_storage.reader.decode.files import DataFile, TableRef
from dedup_storage.reader.open.event_keys import EventKeys, Needs, Pieces
from dedup_storage.reader.open.events import EventScan, index_events
from dedup_storage.reader.open.scan import TableScan
from tests.reader.user_layout import RUNS
from tests.strategies import examples

KIND = pa.list_(pa.int64())


class _File:
    """Stands for an open event file; counts how often each row is taken."""

    def __init__(self, table: pa.Table) -> None:
        self.table, self.taken = table, np.zeros(table.num_rows, dtype=np.int64)

    def take(self, rows: np.ndarray) -> pa.Table:
        assert np.all(np.diff(rows) > 0)
        self.taken[rows] += 1
        return self.table.select(["item"]).take(pa.array(rows))


class _Keys(EventKeys):
    """Keys of tables in memory."""

    def __init__(self, files: dict[str, pa.Table]) -> None:
        super().__init__("user", "position")
        self.files = files

    def read(self, ref: TableRef, file: DataFile, columns: Any, needs: Needs) -> tuple[list[Pieces], float]:
        table = self.files[file.path]
        ones = np.ones(table.num_rows, dtype=np.int64)
        rows = np.arange(table.num_rows, dtype=np.int64)
        return [Pieces(table["user"].combine_chunks(), table["position"].to_numpy(), rows, ones)], 8.0


@st.composite
def cases(draw: Any) -> tuple[list[list[int]], list[tuple[int, Any]], int]:
    """Events of each user; of each request its user, and its runs or its list or nothing; files."""
    sizes = draw(st.lists(st.integers(0, 12), min_size=1, max_size=4))
    events = [[100 * user + at for at in range(size)] for user, size in enumerate(sizes)]
    requests: list[tuple[int, Any]] = []
    for user, size in enumerate(sizes):
        for _ in range(draw(st.integers(0, 4))):
            runs = []
            for _ in range(draw(st.integers(0, 3)) if size else 0):
                start = draw(st.integers(0, size - 1))
                runs.append({"start": start, "length": draw(st.integers(1, size - start))})
            kept = draw(st.sampled_from([None, [], [7, 8, 9, 10]])) if draw(st.booleans()) else runs
            requests.append((user, kept))
    return events, requests, draw(st.integers(1, 3))


@given(
    case=cases(),
    newest_first=st.booleans(),
    most=st.sampled_from([None, 1, 3]),
    computed=st.sampled_from([None, None, 0, 4, 12]),
    seed=st.integers(0, 9),
)
@examples(120)
def test_lists_are_those_of_plain_python(
    case: tuple[list[list[int]], list[tuple[int, Any]], int],
    newest_first: bool,
    most: int | None,
    computed: int | None,
    seed: int,
) -> None:
    """Lists of a group; or of a feature of its events, of which each user's first ones are computed."""
    events, requests, count = case
    rng = np.random.default_rng(seed)
    rows = [(user, at, item) for user, own in enumerate(events) for at, item in enumerate(own)]
    if computed is not None:
        rows = [row for row in rows if row[1] < computed]
        events = [[item if at < computed else None for at, item in enumerate(own)] for own in events]
    which = rng.integers(0, count, len(rows))
    every = pa.table(
        {n: pa.array([r[c] for r in rows], pa.int64()) for c, n in enumerate(("user", "position", "item"))}
    )
    files = {f"f{n}": every.filter(pa.array(which == n)) for n in range(count)}
    expected: list[list[int | None] | None] = []
    for user, told in requests:
        if told is not None and told and isinstance(told[0], dict):
            whole = [e for run in told for e in events[user][run["start"] : run["start"] + run["length"]]]
            whole = whole[len(whole) - min(most, len(whole)) :] if most else whole
            expected.append(whole[::-1] if newest_first else whole)
        else:
            cut = told if told is None or most is None else told[:most] if newest_first else told[-most:]
            expected.append(cut if computed is None or cut is None else [None] * len(cut))
    is_list = [told is None or (told and not isinstance(told[0], dict)) for _, told in requests]
    runs = pa.array([None if own else told for own, (_, told) in zip(is_list, requests, strict=True)], RUNS)
    lists = pa.array([told if own else None for own, (_, told) in zip(is_list, requests, strict=True)], KIND)
    group = EventGroup(
        name="g", columns=("item",), newest_first=newest_first, runs_column="r", position_column="position",
        epoch_column="epoch",
    )  # fmt: skip
    ref = TableRef("events_g", "", {}, {"item": (-1, pa.int64())})
    stored = {(): tuple(DataFile("events_g", name, table.num_rows) for name, table in files.items())}
    beside = None if computed is None else "seen"
    scan = EventScan(group, TableScan(ref, stored), ("item",), _Keys(files), most, beside)
    users = pa.array([user for user, _ in requests], pa.int64())
    found = index_events(scan, (), users, runs, np.ones(len(requests), dtype=np.bool_))
    unit = found.unit(np.arange(len(requests)))
    opened = {name: _File(table) for name, table in files.items()}
    reader = EventReader(unit, scan.source, lambda file: opened[file.path])  # type: ignore[arg-type, return-value]
    delivered: list[Any] = []
    bounds = sorted({0, len(requests), *rng.integers(0, len(requests) + 1, 3).tolist()})
    for start, stop in pairwise(bounds):
        table = pa.table({beside or "item": lists.slice(start, stop - start)})
        block = pa.table(reader.lists(table, start, stop))
        delivered += plain_lists(block)["item"].to_pylist()
        assert block["item"].to_pylist() == delivered[start:stop]
    assert delivered == expected
    assert all(file.taken.max(initial=0) <= 1 for file in opened.values())
    assert unit.tokens.tolist() == [0 if own else len(e or []) for own, e in zip(is_list, expected, strict=True)]
