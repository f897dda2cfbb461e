"""A log in the form of MLPerf's DLRMv4 data (Yambda), and the memory-mapped stores that a training reads without us.

Events of users with heavy tails, some of them anchors: an event to predict, whose history is the window before it.
MLPerf keeps events user by user in flat arrays and takes windows by arithmetic (mlcommons/training,
recommendation_v4, datasets/yambda.py); nothing says there which histories were served. A log of requests has each
anchor's history as a list, which is what a dataset is written from, and what the second store holds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks._memory import own_bytes
from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.runs import Int64
from dedup_storage.schema import LogSchema, SequenceColumn

__all__ = ["LISTS", "Anchors", "Store", "build", "held", "log_schema", "write_log"]

# History list of the log -> column of the events.
LISTS = {"hist_item_ids": "item_id", "hist_times": "time", "hist_actions": "action"}
_TYPES = {"item_id": np.int64, "time": np.int64, "action": np.int32}
# Of each anchor where its history begins, its length, what is to be predicted.
_ANCHOR = {"start": np.int64, "length": np.int64, "item": np.int64, "label": np.int32}
_DAY_US, _FIRST_US, _DAYS, _FILES = 86_400_000_000, 1_767_225_600_000_000, 90, 8
_CHUNK_TOKENS = 4_000_000


@dataclass(frozen=True)
class Anchors:
    """What the log looks like.

    Attributes:
        users: Users.
        median, sigma, most: Events of a user: log-normal, and no more than ``most``.
        window: Longest history.
        every: One of so many events is an anchor.
    """

    users: int
    median: int
    sigma: float
    most: int
    window: int
    every: int

    def events(self) -> tuple[Int64, dict[str, np.ndarray]]:
        """(users + 1,) where each user's events begin, and the events' columns, user by user, oldest first."""
        rng = np.random.default_rng(11)
        counts = np.exp(rng.normal(np.log(self.median), self.sigma, self.users)).astype(np.int64)
        offsets = offsets_from_lengths(np.clip(counts, 2, self.most))
        total = int(offsets[-1])
        # Popular items are popular with all; how often one is taken falls with its rank.
        items = (np.exp(rng.random(total) * np.log(2_000_000)) * 1_000_003).astype(np.int64) % 9_000_000_019
        users = np.repeat(np.arange(self.users), np.diff(offsets))
        times = _FIRST_US + rng.integers(0, _DAYS * _DAY_US // 1_000_000, total) * 1_000_000
        times = times[np.lexsort((times, users))]
        actions = rng.choice(4, total, p=[0.7, 0.2, 0.07, 0.03]).astype(np.int32)
        return offsets, {"item_id": items, "time": times, "action": actions}

    def anchors(self, offsets: Int64) -> tuple[Int64, Int64, Int64]:
        """User, number of the event, and length of the history of each anchor, by user and time."""
        rng = np.random.default_rng(12)
        chosen = np.flatnonzero(rng.random(int(offsets[-1])) < 1 / self.every).astype(np.int64)
        users = np.searchsorted(offsets, chosen, side="right") - 1
        before = chosen - offsets[users]
        users, chosen, before = users[before > 0], chosen[before > 0], before[before > 0]
        return users, chosen, np.minimum(before, self.window)


def log_schema(window: int) -> LogSchema:
    """The meaning of the log's columns."""
    sequences = tuple(
        SequenceColumn(column=c, group="history", times=c == "hist_times", max_length=window) for c in LISTS
    )
    return LogSchema(
        user="user_id", request=("request_id",), item="item_id", event_time="request_time", labels=("label",),
        sequences=sequences,
    )  # fmt: skip


def write_log(form: Anchors, place: Path) -> dict[str, int]:
    """The anchors' log in order of time (``log``), and their events in order of time (``events.parquet``).

    Returns:
        Requests, tokens of their histories, events, those that a history holds, and those of the busiest user.
    """
    offsets, columns = form.events()
    users, chosen, lengths = form.anchors(offsets)
    place.mkdir(parents=True, exist_ok=True)
    owners = np.repeat(np.arange(form.users), np.diff(offsets))
    arrival = np.argsort(columns["time"], kind="stable")
    marked = np.zeros(len(owners), dtype=np.bool_)
    marked[chosen] = True
    flat = {"user_id": owners, **columns, "anchor": marked}
    pq.write_table(pa.table({c: v[arrival] for c, v in flat.items()}), place / "events.parquet", compression="zstd")
    order = np.argsort(columns["time"][chosen], kind="stable")
    (place / "log").mkdir()
    for number, rows in enumerate(np.array_split(order, _FILES)):
        with pq.ParquetWriter(place / f"log/{number:02}.parquet", _arrow_schema(), compression="zstd") as writer:
            for part in _chunks(rows, lengths):
                writer.write_table(_log_rows(columns, users[part], chosen[part], lengths[part], part))
    return {
        "requests": len(chosen), "tokens": int(lengths.sum()), "events": len(owners),
        "events that a history holds": held(len(owners), chosen, lengths),
        "events of the busiest user": int(np.diff(offsets).max()),
    }  # fmt: skip


def held(events: int, chosen: Int64, lengths: Int64) -> int:
    """How many events stand in the history of an anchor: what can be stored of a log of requests."""
    begun = np.bincount(chosen - lengths, minlength=events) - np.bincount(chosen, minlength=events)
    return int(np.count_nonzero(np.cumsum(begun) > 0))


def _arrow_schema() -> pa.Schema:
    lists = {c: pa.list_(pa.from_numpy_dtype(_TYPES[own])) for c, own in LISTS.items()}
    return pa.schema(
        {
            "user_id": pa.int64(),
            "request_id": pa.int64(),
            "request_time": pa.timestamp("us", tz="UTC"),
            "item_id": pa.int64(),
            "label": pa.int32(),
            **lists,
        }
    )


def _chunks(rows: Int64, lengths: Int64) -> Iterator[Int64]:
    """Rows in parts of so many tokens."""
    ends = np.cumsum(lengths[rows])
    return iter(np.split(rows, np.flatnonzero(np.diff(ends // _CHUNK_TOKENS)) + 1))


def _log_rows(columns: Mapping[str, np.ndarray], users: Int64, chosen: Int64, lengths: Int64, ids: Int64) -> pa.Table:
    places, offsets = ranges(chosen - lengths, lengths), pa.array(offsets_from_lengths(lengths).astype(np.int32))
    lists = {c: pa.ListArray.from_arrays(offsets, pa.array(columns[own][places])) for c, own in LISTS.items()}
    keys = {
        "user_id": users,
        "request_id": ids,
        "request_time": pa.array(columns["time"][chosen], pa.timestamp("us", tz="UTC")),
        "item_id": columns["item_id"][chosen],
        "label": (columns["action"][chosen] > 0).astype(np.int32),
    }
    return pa.table({**keys, **lists}, schema=_arrow_schema())


class Store:
    """Flat arrays on disk, mapped into memory, and where each anchor's history lies in them.

    Args:
        place: The store's folder; ``build`` fills it.
    """

    def __init__(self, place: Path) -> None:
        self._columns = {own: np.memmap(place / own, _TYPES[own], "r") for own in LISTS.values()}
        self._anchors = {name: np.fromfile(place / name, kind) for name, kind in _ANCHOR.items()}

    def __len__(self) -> int:
        return len(self._anchors["start"])

    def epoch(self, batch_size: int, seed: int) -> tuple[int, int]:
        """Batches of shuffled anchors as tensors: histories (values, offsets), candidates, labels.

        Returns:
            Tokens, and the sum of their items.
        """
        order, tokens, items = np.random.default_rng(seed).permutation(len(self)), 0, 0
        for first in range(0, len(self), batch_size):
            rows = order[first : first + batch_size]
            starts, lengths = self._anchors["start"][rows], self._anchors["length"][rows]
            places = ranges(starts, lengths)
            batch = {own: torch.from_numpy(np.take(column, places)) for own, column in self._columns.items()}
            batch["offsets"] = torch.from_numpy(offsets_from_lengths(lengths))
            batch |= {name: torch.from_numpy(self._anchors[name][rows]) for name in ("item", "label")}
            tokens += len(places)
            items += int(batch["item_id"].sum())
        return tokens, items


def build(kind: str, log: Path, place: Path, window: int) -> dict[str, float]:
    """Build a store by a process of its own.

    Args:
        kind: ``events`` (each event once, windows by arithmetic) or ``lists`` (each request's lists as they were
            logged).
        log: What ``write_log`` wrote.
        place: Of the store.
        window: Longest history.

    Returns:
        ``peak``, the most bytes of resident memory beyond what imports take, ``seconds``, and ``bytes`` on disk.
    """
    place.mkdir(parents=True)
    words = [sys.executable, "-m", "benchmarks._anchors", kind, str(log), str(place), str(window)]
    done = subprocess.run(words, check=True, capture_output=True, cwd=Path(__file__).resolve().parent.parent)
    return {**json.loads(done.stdout), "bytes": sum(file.stat().st_size for file in place.iterdir())}


def _build_events(log: Path, place: Path, window: int) -> None:
    """As MLPerf does: all events in memory, sorted by user and time."""
    table = pq.read_table(log / "events.parquet")
    rows = {name: table[name].to_numpy() for name in table.column_names}
    order = np.lexsort((rows["time"], rows["user_id"]))
    rows = {name: values[order] for name, values in rows.items()}
    for own in LISTS.values():
        rows[own].tofile(place / own)
    first = np.flatnonzero(np.diff(rows["user_id"], prepend=-1))
    begins = np.repeat(first, np.diff(np.append(first, len(order))))
    chosen = np.flatnonzero(rows["anchor"])
    start = np.maximum(begins[chosen], chosen - window)
    _save_anchors(place, start, chosen - start, rows["item_id"][chosen], rows["action"][chosen] > 0)


def _build_lists(log: Path, place: Path, _: int) -> None:
    """Part by part: nothing is sorted, each value is copied as it was logged."""
    lengths, items, labels = [], [], []
    with ExitStack() as stack:
        files = {column: stack.enter_context((place / own).open("wb")) for column, own in LISTS.items()}
        for path in sorted((log / "log").glob("*.parquet")):
            for batch in pq.ParquetFile(path).iter_batches(1024, columns=["item_id", "label", *LISTS]):
                lengths.append(np.diff(batch.column("hist_actions").offsets.to_numpy()).astype(np.int64))
                items.append(batch.column("item_id").to_numpy())
                labels.append(batch.column("label").to_numpy())
                for column, file in files.items():
                    batch.column(column).flatten().to_numpy().tofile(file)
    length = np.concatenate(lengths)
    _save_anchors(place, offsets_from_lengths(length)[:-1], length, np.concatenate(items), np.concatenate(labels))


def _save_anchors(place: Path, *values: np.ndarray) -> None:
    for (name, kind), array in zip(_ANCHOR.items(), values, strict=True):
        array.astype(kind).tofile(place / name)


def main() -> None:
    """Build one store (``build`` runs it)."""
    kind, log, place, window = sys.argv[1:]
    before, start = own_bytes("VmRSS:"), time.perf_counter()
    {"events": _build_events, "lists": _build_lists}[kind](Path(log), Path(place), int(window))
    sys.stdout.write(json.dumps({"peak": own_bytes("VmHWM:") - before, "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
