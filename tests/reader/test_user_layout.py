"""Layout ``user``: the same batches as of split layout, each event of a block decoded once."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from dedup_storage.errors import ConfigError, StorageError
from dedup_storage.layout import Layout
from dedup_storage.reader import DedupBatch, DedupDataset, open_vocabulary
from dedup_storage.reader.decode.files import RowStream
from dedup_storage.schema import DateGrain, LogSchema
from tests.reader.lake import Lake, Log
from tests.reader.reading import contents, deliver, interleave
from tests.reader.user_layout import VIEWS, make_histories, write_user

NUMBERS = ("items", "prices", "buys", "item_id")


@pytest.fixture(scope="session")
def log() -> Log:
    """What both layouts hold."""
    return make_histories()


@pytest.fixture(scope="session")
def both(lake: Lake, log: Log) -> Lake:
    """One log in both layouts; and one of users with texts for keys, without dates in its segments."""
    lake.write("histories_split", log, date_grain=DateGrain.MONTH, buckets=2)
    write_user(lake, "histories_user", log, row_group_rows=64)
    texts = make_histories(4, string_users=True)
    lake.write("texts_split", texts, date_grain=DateGrain.MONTH, buckets=1)
    write_user(lake, "texts_user", texts, writes=1, buckets=1)
    return lake


def opened(lake: Lake, layout: Layout, name: str = "histories", **options: Any) -> DedupDataset:
    return DedupDataset(f"{name}_{layout.value}", lake.settings, **options)


def same(left: DedupBatch, right: DedupBatch) -> None:
    """Bit for bit; strings are compared behind their codes."""
    assert left.progress == right.progress
    assert left.grains == right.grains
    for name in left.grains:
        one, other = left[name], right[name]
        assert one.tensors().keys() == other.tensors().keys(), name
        for part, tensor in one.tensors().items():
            if part == "values" and one.vocabulary is not None:
                assert one.decode() == other.decode(), name
            else:
                assert tensor.dtype == other.tensors()[part].dtype
                assert tensor.numpy().tobytes() == other.tensors()[part].numpy().tobytes(), (name, part)


def equal_epochs(lake: Lake, name: str = "histories", **options: Any) -> int:
    split, user = (list(opened(lake, layout, name, **options)) for layout in (Layout.SPLIT, Layout.USER))
    assert len(split) == len(user) > 0
    for left, right in zip(split, user, strict=True):
        same(left, right)
    return sum(len(batch.lengths) for batch in user)


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": False},
        {"seed": 5},
        {"strings": "hash", "splits": 3, "mix": 2},
        # Windows of a few requests: users go on from one block to the next.
        {"buffer_bytes": 8192, "columns": NUMBERS, "mix": 2, "splits": 1},
        {"buffer_bytes": 1024, "columns": NUMBERS, "shuffle": False, "splits": 1, "prefetch": 0},
        {"unit": "tokens", "tokens": "items", "batch_size": 150},
        {"unit": "tokens", "tokens": "buys", "batch_size": 90, "columns": ("items", "buys")},
        {"history_length": 7, "columns": VIEWS},
        {"history_length": 7, "columns": VIEWS, "unit": "tokens", "tokens": "items", "batch_size": 40},
        {"filters": {"users": [1, 4, 7], "start": "2022-01-20"}},
        {"filters": {"country": ["DE"], "price": {">=": 3}}, "columns": ("words", "prices")},
        {"arrow_transform": lambda requests, impressions: (requests, impressions)},
    ],
    ids=lambda options: ",".join(options),
)
def test_batches_are_those_of_split_layout(both: Lake, options: dict[str, Any]) -> None:
    assert equal_epochs(both, **{"batch_size": 24, **options}) > 0


@pytest.mark.parametrize("options", [{"shuffle": False}, {"seed": 3}, {"filters": {"users": ["usér-2-日"]}}])
def test_users_may_have_texts_for_keys(both: Lake, options: dict[str, Any]) -> None:
    equal_epochs(both, "texts", batch_size=16, **options)


def test_a_block_without_an_event_joins_those_with_some(lake: Lake) -> None:
    log = make_histories(3, 6)
    # Of the second user no list at all is left, so that a block of these requests has no event.
    ours = pc.equal(log.requests["user_id"], 1)
    for column in (*VIEWS, "buys"):
        place, kind = log.requests.column_names.index(column), log.requests.schema.field(column).type
        none = pa.array([None] * log.requests.num_rows, kind)
        kept = pc.if_else(ours, none, log.requests[column].combine_chunks())
        log.requests = log.requests.set_column(place, column, kept)
    lake.write("gaps_split", log, date_grain=DateGrain.MONTH, buckets=1)
    write_user(lake, "gaps_user", log, writes=1, buckets=1)
    for options in ({"buffer_bytes": 1024}, {"buffer_bytes": 1024, "history_length": 2}):
        found = {r: w for b in opened(lake, Layout.USER, "gaps", **options) for r, w in shown(b)}
        assert found == {r: w for b in opened(lake, Layout.SPLIT, "gaps", **options) for r, w in shown(b)}


def shown(batch: DedupBatch) -> Iterator[tuple[int, Any]]:
    return zip(batch["request_id"].decode(), batch["words"].decode(), strict=True)


def test_newest_first_lists_are_cut_at_their_front(both: Lake, log: Log) -> None:
    stored = {r["request_id"]: r["buys"] for r in log.requests.to_pylist()}
    for batch in opened(both, Layout.USER, columns=["buys"], history_length=4):
        for key, found in zip(batch["request_id"].decode(), batch["buys"].decode(), strict=True):
            assert found == (None if stored[key] is None else stored[key][:4])


def test_parallel_lists_are_cut_alike(lake: Lake) -> None:
    """A column that depends on the request stays a list of the request, and is cut where its group's events are."""
    log = make_histories(3, 6)
    buys = [{"column": c, "group": "bought"} for c in ("buys", "ages")]
    told = log.schema.to_dict()
    told["sequences"] = [*(s for s in told["sequences"] if s["column"] != "buys"), *buys]
    rows = log.requests["buys"].to_pylist()
    ages = [None if row is None else [100 * n + i for i in range(len(row))] for n, row in enumerate(rows)]
    requests = log.requests.append_column("ages", pa.array(ages, pa.list_(pa.int64())))
    write_user(lake, "ages_user", Log(LogSchema.from_dict(told), requests, log.impressions), writes=1, buckets=1)
    stored = {r["request_id"]: r for r in requests.to_pylist()}
    for columns in (("items", "buys", "ages"), ("ages",)):
        for batch in opened(lake, Layout.USER, "ages", columns=columns, history_length=2):
            for column in columns[-2:]:
                for key, found in zip(batch["request_id"].decode(), batch[column].decode(), strict=True):
                    whole = stored[key][column]
                    assert found == (None if whole is None else whole[:2])


def taken(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """How often each row of an event file is taken from now on."""
    rows: Counter[tuple[str, int]] = Counter()
    take = RowStream.take

    def counted(self: RowStream, wanted: np.ndarray) -> pa.Table:
        if self._table.name.startswith("events_") and "items" in self._columns:
            rows.update((self._file.path, row) for row in wanted.tolist())
        return take(self, wanted)

    monkeypatch.setattr(RowStream, "take", counted)
    return rows


def test_each_event_of_a_unit_is_taken_once(both: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = taken(monkeypatch)
    options = {"columns": ["items"], "shuffle": False, "splits": 1, "buffer_bytes": 2048}
    batches = list(opened(both, Layout.USER, batch_size=8, **options))
    # Blocks of a few requests, and one month or both that need an event.
    assert max(rows.values()) <= 2
    assert sum(rows.values()) < sum(len(batch["items"].values) for batch in batches) / 2


def test_short_histories_take_no_older_events(both: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = taken(monkeypatch)
    list(opened(both, Layout.USER, columns=["items"], history_length=3))
    short = len(rows)
    rows.clear()
    list(opened(both, Layout.USER, columns=["items"]))
    assert 0 < short < len(rows) / 2


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_goes_on_exactly(both: Lake, workers: int) -> None:
    options = {"batch_size": 16, "splits": 4, "seed": 2, "buffer_bytes": 8192}
    everything = deliver(opened(both, Layout.USER, **options))
    first = opened(both, Layout.USER, **options)
    before = []
    for batch in first.track(DataLoader(first, batch_size=None, num_workers=workers)):
        before.append(batch)
        if len(before) == 5:
            break
    rest = opened(both, Layout.USER, **options)
    rest.load_state_dict(first.state_dict())
    assert contents(before) + deliver(rest) == everything


def test_a_dataset_crosses_to_a_spawned_process(both: Lake) -> None:
    dataset = opened(both, Layout.USER, batch_size=16)
    for left, right in zip(dataset, pickle.loads(pickle.dumps(dataset)), strict=True):  # noqa: S301 - our own bytes
        same(left, right)


def test_two_ranks_share_the_sequence_of_one(both: Lake) -> None:
    options = {"batch_size": 16, "splits": 4, "ends": "uneven"}
    ranks = [deliver(opened(both, Layout.USER, rank=rank, world_size=2, **options)) for rank in (0, 1)]
    assert interleave(ranks) == deliver(opened(both, Layout.USER, **options))


def test_a_vocabulary_counts_what_requests_hold(both: Lake) -> None:
    split, user = (
        open_vocabulary(f"histories_{layout.value}", ["items", "item_id"], both.settings, min_count=2)
        for layout in (Layout.SPLIT, Layout.USER)
    )
    assert split.values.equals(user.values)


def test_a_state_without_a_length_is_as_it_was(both: Lake) -> None:
    plan = opened(both, Layout.SPLIT).plan
    assert plan.pins["options"] != opened(both, Layout.SPLIT, history_length=9).plan.pins["options"]
    assert "history_length" not in plan.options.model_dump(exclude={"history_length"})


def test_a_length_without_a_history_is_refused(both: Lake) -> None:
    with pytest.raises(ConfigError, match="none is read"):
        opened(both, Layout.USER, columns=["item_id"], history_length=3)


def events(lake: Lake, name: str) -> list[Path]:
    tasks = lake.table(name, "events_views").scan().plan_files()
    return [Path(task.file.file_path.removeprefix("file://")) for task in tasks]


@pytest.mark.parametrize(
    ("change", "message"), [("less", "does not hold"), ("twice", "has two events at one position")]
)
def test_events_that_another_tool_changed_are_refused_by_name(lake: Lake, change: str, message: str) -> None:
    name = f"changed_{change}"
    write_user(lake, name, make_histories(2), writes=1, buckets=1)
    for path in events(lake, name):
        stored = pq.ParquetFile(path).read()
        if change == "less":
            stored = stored.filter(pc.not_equal(stored["position"], 17))
        else:
            stored = stored.set_column(1, stored.schema.field(1), pc.multiply(pc.divide(stored["position"], 2), 2))
        pq.write_table(stored, path)
    with pytest.raises(StorageError, match=f"events_views.*{message}"):
        DedupDataset(name, lake.settings)
    assert len(list(DedupDataset(name, lake.settings, columns=["buys"]))) > 0


def test_deleted_events_are_missed_only_by_who_needs_them(both: Lake) -> None:
    def reading(user: int) -> DedupDataset:
        dataset = opened(both, Layout.USER, columns=["items"], filters={"users": [user]})
        keys = [np.asarray(pq.ParquetFile(f).read()["user_id"]) for f in files]
        deleted = {str(f): np.flatnonzero(k == 3).astype(np.int64) for f, k in zip(files, keys, strict=True)}
        (scan,) = dataset.plan.units.indexer.events
        for segment, found in scan.scan.segments.items():
            scan.scan.segments[segment] = tuple(
                replace(f, deleted=deleted[f.path.removeprefix("file://")]) for f in found
            )
        dataset.plan.units._kept.clear()
        scan.keys._kept.clear()
        return dataset

    files = events(both, "histories_user")
    whole = list(opened(both, Layout.USER, columns=["items"], filters={"users": [1]}))
    for left, right in zip(whole, reading(1), strict=True):
        same(left, right)
    with pytest.raises(StorageError, match="events_views does not hold"):
        list(reading(3))
