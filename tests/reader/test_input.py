"""Behaviours 19 to 23, 25, 26, 31, 32: filters, projection, failures, memory; and input that is wrong."""

from __future__ import annotations

import datetime as dt
import gc
import inspect
import json
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import dedup_storage.reader
from dedup_storage.config import Settings
from dedup_storage.errors import (
    ConfigError,
    DatasetNotFoundError,
    SchemaError,
    StorageError,
    UnknownColumnError,
    VersionNotFoundError,
)
from dedup_storage.layout import Layout
from dedup_storage.reader import DedupBatch, DedupDataset
from dedup_storage.reader.decode.files import RowStream
from dedup_storage.reader.decode.pack import BatchPacker, Part
from dedup_storage.reader.decode.split import SplitReader
from dedup_storage.reader.options import ReadOptions
from dedup_storage.schema import DateGrain
from dedup_storage.words import counted
from tests.reader.lake import Lake, make_log
from tests.reader.reading import contents, deliver, requests_of


@pytest.fixture(scope="module", autouse=True)
def data(lake: Lake) -> None:
    lake.standing("input_tests", make_log(users=20), buckets=4, row_group_rows=6)


def fail_on_third(batch: DedupBatch) -> DedupBatch:
    if batch.progress.index == 3:
        raise ValueError("the transform disliked batch 3")
    return batch


def double_price(requests: pa.Table, impressions: pa.Table) -> tuple[pa.Table, pa.Table]:
    place = impressions.column_names.index("item_id")
    doubled = pa.array(impressions["item_id"].to_numpy() * 2)
    return requests, impressions.set_column(place, "item_id", doubled)


def add_a_column(requests: pa.Table, impressions: pa.Table) -> tuple[pa.Table, pa.Table]:
    return requests, impressions.append_column("added", pa.array(range(impressions.num_rows), pa.int64()))


def test_19_an_empty_filter_result_is_an_empty_epoch(lake: Lake) -> None:
    dataset = DedupDataset("input_tests", lake.settings, filters={"users": [10**6]})
    assert len(dataset) == 0
    assert deliver(dataset) == []
    assert deliver(dataset, 1) == []


@pytest.mark.parametrize("layout", [Layout.SPLIT, Layout.FLAT])
@pytest.mark.parametrize("grain", list(DateGrain))
def test_filters_keep_exactly_the_requests_asked_for(lake: Lake, name: str, layout: Layout, grain: DateGrain) -> None:
    log = make_log(users=20, days=3)
    lake.write(name, log, layout=layout, date_grain=grain, files=2, row_group_rows=5)
    rows = log.requests.select(["user_id", "request_id", "event_date"]).to_pylist()
    day = dt.date(1970, 1, 1) + dt.timedelta(days=19_001)
    cases: list[tuple[dict[str, Any], Any]] = [({"users": [3, 7, 99]}, lambda r: r["user_id"] in (3, 7))]
    if grain is not DateGrain.NONE:
        cases += [
            ({"start": day}, lambda r: r["event_date"] >= day),
            ({"start": day, "end": day, "users": [3]}, lambda r: r["event_date"] == day and r["user_id"] == 3),
        ]
    for filters, wanted in cases:
        dataset = DedupDataset(name, lake.settings, filters=filters)
        found = sorted(requests_of(deliver(dataset)))
        assert found == sorted((r["user_id"], r["request_id"]) for r in rows if wanted(r))


def test_bucket_filters_partition_the_dataset(lake: Lake) -> None:
    parts = [
        requests_of(deliver(DedupDataset("input_tests", lake.settings, filters={"buckets": [b]}))) for b in range(4)
    ]
    whole = requests_of(deliver(DedupDataset("input_tests", lake.settings)))
    assert sorted(key for part in parts for key in part) == sorted(whole)
    assert sum(map(bool, parts)) > 1
    for wrong in ([4], [0, -1]):
        with pytest.raises(ConfigError, match=r"buckets that input_tests does not have; expected 0 to 3"):
            DedupDataset("input_tests", lake.settings, filters={"buckets": wrong})


def test_20_an_unknown_column_raises_with_the_known_ones_named(lake: Lake) -> None:
    with pytest.raises(UnknownColumnError, match=r"no column itm_id; expected one of item_id"):
        DedupDataset("input_tests", lake.settings, columns=["itm_id"])


def test_20_only_projected_columns_are_read(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()
    original = RowStream._conform

    def spy(self: RowStream, *args: Any) -> pa.Table:
        table = original(self, *args)
        read.update(table.column_names)
        return table

    monkeypatch.setattr(RowStream, "_conform", spy)
    batch = next(iter(DedupDataset("input_tests", lake.settings, columns=["label"], prefetch=0)))
    assert read == {"user_id", "request_id", "label"} == set(batch)


@pytest.mark.parametrize("workers", [0, 1])
def test_21_an_exception_keeps_its_traceback(lake: Lake, workers: int) -> None:
    dataset = DedupDataset("input_tests", lake.settings, batch_size=10, transform=fail_on_third)
    with pytest.raises(ValueError, match="disliked batch 3") as caught:
        deliver(dataset, workers)
    text = str(caught.value) + "".join(str(t) for t in caught.traceback)
    assert "fail_on_third" in text


@pytest.mark.long
def test_21_29_a_worker_killed_with_kill_9_does_not_hang_and_restart_goes_on(lake: Lake, tmp_path: Path) -> None:
    script, out = Path(__file__).with_name("worker_process.py"), tmp_path / "received.jsonl"
    ended = subprocess.run(
        [sys.executable, str(script), str(lake.settings.warehouse), "input_tests", str(out)],
        env={**os.environ, "PYTHONPATH": str(script.parent.parent.parent)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 1
    # The last one where the worker ended while it was sending.
    assert re.search(r"exited unexpectedly|is killed by signal|ConnectionResetError", ended.stderr)
    received = [json.loads(line) for line in out.read_text().splitlines()]
    resumed = DedupDataset("input_tests", lake.settings, batch_size=10)
    everything = deliver(resumed)
    if received:
        resumed.load_state_dict(received[-1]["state"])
    rest = [index for index, _, _ in deliver(resumed, 1)]
    assert [r["index"] for r in received] + rest == [index for index, _, _ in everything]


def test_22_an_unpicklable_transform_is_named(lake: Lake) -> None:
    for option in ("transform", "arrow_transform"):
        hook: Any = {option: lambda *given: given}
        dataset = DedupDataset("input_tests", lake.settings, **hook)
        with pytest.raises(ConfigError, match=f"{option}=.*lambda.* cannot be sent to a worker"):
            pickle.dumps(dataset)


def test_hooks_see_deduplicated_rows_before_and_after_tensors(lake: Lake) -> None:
    plain = deliver(DedupDataset("input_tests", lake.settings, batch_size=10))
    doubled = deliver(DedupDataset("input_tests", lake.settings, batch_size=10, arrow_transform=double_price), 1)
    assert [(i, k, tuple(2 * x for x in items)) for i, k, items in plain] == doubled
    # Where no impression column is read a hook may still add some.
    for batch in DedupDataset("input_tests", lake.settings, batch_size=10, columns="age", arrow_transform=add_a_column):
        assert list(batch.impressions) == ["added"]
        assert len(batch["added"]) == batch.num_impressions


def test_23_early_break_and_concurrent_iterators(lake: Lake) -> None:
    dataset = DedupDataset("input_tests", lake.settings, batch_size=10)
    everything = deliver(dataset)
    for _ in dataset:
        break
    left, right = iter(dataset), iter(dataset)
    both = [(next(left), next(right)) for _ in range(4)]
    assert contents(a for a, _ in both) == contents(b for _, b in both) == everything[:4]
    assert contents(left) == everything[4:] == contents(right)


@pytest.mark.long
def test_25_nothing_is_left_behind_after_epochs_and_breaks(lake: Lake) -> None:
    def running() -> int:
        return sum(t.name.startswith("dedup-") for t in threading.enumerate())

    dataset = DedupDataset("input_tests", lake.settings, batch_size=10)
    deliver(dataset)
    gc.collect()
    before = running()
    handles = len(os.listdir("/proc/self/fd"))
    for epoch in range(5):
        dataset.set_epoch(epoch)
        deliver(dataset)
        for _ in dataset:
            break
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("dedup-"):
            thread.join(timeout=10)
    assert running() <= before
    assert len(os.listdir("/proc/self/fd")) <= handles + 2


def test_26_windows_hold_what_the_buffer_allows(lake: Lake, name: str) -> None:
    lake.write(name, make_log(users=30, tokens=400, nulls=False), buckets=2)
    dataset = DedupDataset(name, lake.settings, buffer_bytes=200_000, mix=2, splits=2)
    order = dataset.order()
    units = dataset.plan.units
    largest = 800 * 8
    for split in order.splits:
        for window in split.windows:
            held = sum(
                units[b.unit].request_bytes * (b.stop - b.start)
                + units[b.unit].impression_bytes * int(units[b.unit].lengths[b.start : b.stop].sum())
                for b in window
            )
            assert held <= 200_000 / 2 / 2 + len(window) * 2 * largest
    assert len(requests_of(deliver(dataset))) == 150


def test_26_a_window_is_let_go_once_a_batch_lies_behind_it(
    lake: Lake, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.write(name, make_log(users=30, tokens=400, nulls=False), buckets=2)
    packed, held, batch = 0, list[tuple[int, int]](), SplitReader.batch
    pack = BatchPacker.pack

    def counted_parts(self: BatchPacker, parts: list[Part], *more: Any) -> DedupBatch:
        nonlocal packed
        packed = len(parts)
        return pack(self, parts, *more)

    def watched(self: SplitReader, *given: Any) -> DedupBatch:
        found = batch(self, *given)
        held.append((packed, len(self._windows)))
        return found

    monkeypatch.setattr(BatchPacker, "pack", counted_parts)
    monkeypatch.setattr(SplitReader, "batch", watched)
    for prefetch in (0, 2):
        held.clear()
        reader = DedupDataset(name, lake.settings, buffer_bytes=200_000, batch_size=8, splits=1, prefetch=prefetch)
        assert len(requests_of(deliver(reader))) == 150
        # Some batches take of two windows; what these leave is no longer there after the next one.
        assert {parts for parts, _ in held} == {1, 2}
        assert all(windows == parts for parts, windows in held)


def test_31_skipped_orphans_stay_deterministic(lake: Lake, name: str) -> None:
    log = make_log(users=10)
    lake.write(name, log)
    table = lake.table(name, "impressions")
    extra = table.scan().to_arrow().slice(0, 3)
    place = extra.column_names.index("request_id")
    lake.append(table, extra.set_column(place, "request_id", pa.array([-1, -1, -2])), ("user_id", "request_id"))
    lake.tag(name, 2, ["impressions"])
    lake.table(name, "requests").manage_snapshots().create_tag(
        lake.table(name, "requests").current_snapshot().snapshot_id,
        "v2",  # type: ignore[union-attr]
    ).commit()
    with pytest.raises(StorageError, match="have no request"):
        DedupDataset(name, lake.settings)
    skipping = DedupDataset(name, lake.settings, orphans="skip", columns=["item_id"])
    found = deliver(skipping)
    assert found == deliver(DedupDataset(name, lake.settings, orphans="skip", columns=["item_id"]), 2)
    assert len(requests_of(found)) == log.requests.num_rows


def test_32_no_pickle_in_the_reader() -> None:
    directory = Path(dedup_storage.reader.__file__).parent
    assert not [p.name for p in directory.glob("*.py") if "import pickle" in p.read_text(encoding="utf-8")]


def test_unknown_dataset_version_and_sample_are_named(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"no dataset input_test .*one of input_tests"):
        DedupDataset("input_test", lake.settings)
    with pytest.raises(VersionNotFoundError, match="no version 9; expected one of 1"):
        DedupDataset("input_tests", lake.settings, version=9)
    with pytest.raises(ConfigError, match="no sample small"):
        DedupDataset("input_tests", lake.settings, sample="small")
    with pytest.raises(TypeError, match="batch_sze"):
        DedupDataset("input_tests", lake.settings, batch_sze=3)  # type: ignore[call-arg]
    small: tuple[dict[str, Any], ...] = ({"batch_size": 0}, {"threads": 0}, {"prefetch": -1})
    for option in small:
        with pytest.raises(ConfigError, match=next(iter(option))):
            DedupDataset("input_tests", lake.settings, **option)
    for column, told in (("item_id", "at impression grain"), ("age", "got float at request grain")):
        with pytest.raises(SchemaError, match=f"measured in tokens of the column {column};.*{told}"):
            DedupDataset("input_tests", lake.settings, unit="tokens", tokens=column)
    with pytest.raises(DatasetNotFoundError):
        DedupDataset("anything", Settings(warehouse=str(tmp_path / "empty")))


def test_options_of_another_kind_are_named(lake: Lake, tmp_path: Path) -> None:
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"version": "1"}, r"the option version is not valid; expected a whole number, 1 or more; got '1'"),
        ({"version": True}, "the option version is not valid"),
        ({"threads": 1.5}, "the option threads is not valid; .*got 1.5"),
        ({"prefetch": "2"}, "the option prefetch is not valid"),
        ({"batch_size": True}, "batch_size: True is no number"),
        ({"history_length": True}, "history_length: True is no number"),
        ({"unit": "tokens"}, "not valid: unit='tokens' and tokens='<list column>' go together"),
        ({"filters": {"start": 20220109}}, "start: 20220109 is no date, which is written as 2026-01-31"),
        ({"filters": {"end": "20220109"}}, "end: '20220109' is no date"),
        ({"filters": {"start": dt.datetime(2022, 1, 9, 12)}}, "start: .* is no date"),
        ({"filters": {"end": True}}, "end: True is no date"),
        ({"vocabularies": {"country": {"DE": 1}}}, "the column country was given no vocabulary; .*got dict"),
        ({"settings": lake}, "the reader was given no settings; .*got Lake. Of a lake pass lake.settings"),
    )
    for options, told in wrong:
        with pytest.raises(ConfigError, match=told):
            DedupDataset("input_tests", **{"settings": lake.settings, **options})
    file = tmp_path / "lake.yaml"
    file.write_text(f"warehouse: {lake.settings.warehouse}\n")
    assert (
        DedupDataset("input_tests", file).plan.num_requests == DedupDataset("input_tests", str(file)).plan.num_requests
    )
    midnight = DedupDataset("input_tests", lake.settings, filters={"start": dt.datetime(2022, 1, 9)})
    assert midnight.plan.options.filters.start == dt.date(2022, 1, 9)


def test_filters_that_leave_nothing_are_told(lake: Lake, recwarn: pytest.WarningsRecorder) -> None:
    for filters in ({"country": "de"}, {"start": "2030-01-01"}, {"users": [-1]}):
        with pytest.warns(
            UserWarning, match="the filters leave nothing of input_tests, version 1: every epoch is empty"
        ):
            assert list(DedupDataset("input_tests", lake.settings, filters=filters)) == []
    recwarn.clear()
    DedupDataset("input_tests", lake.settings, filters={"country": "DE"})
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]


def take_all(dataset: DedupDataset, received: list[DedupBatch]) -> list[DedupBatch]:
    """Append each batch as it comes, so that those before an error are known."""
    for batch in dataset:
        received.append(batch)
    return []


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_missing_and_a_corrupted_file_are_named_with_what_was_delivered(lake: Lake, name: str, prefetch: int) -> None:
    lake.write(name, make_log(users=30), buckets=4, date_grain=DateGrain.NONE)
    dataset = DedupDataset(name, lake.settings, batch_size=10, splits=1, shuffle=False, prefetch=prefetch)
    path = Path(dataset.plan.units[2].file.path.removeprefix("file://"))
    content = path.read_bytes()
    for damage, words in (("missing", "is missing"), ("corrupted", "cannot be read")):
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(content[:4] + b"\x00" * (len(content) - 12) + content[-8:])
        received: list[DedupBatch] = []
        with pytest.raises(StorageError, match=words) as caught:
            received.extend(take_all(dataset, received))
        delivered = len(received)
        assert path.name in str(caught.value)
        assert "pin the version" in str(caught.value)
        assert f"{counted(delivered, 'batch', 'was')} delivered before it by this reader" in str(caught.value)
        assert f"the last was batch {delivered - 1}" in str(caught.value)
        with pytest.raises(StorageError, match=path.name):
            DedupDataset(name, lake.settings)


def test_options_are_the_fields_that_are_validated() -> None:
    taken = inspect.signature(DedupDataset).parameters
    fields = ReadOptions.model_fields
    assert set(fields) <= set(taken)
    same = {name for name in fields if name != "filters"}
    assert {n: taken[n].default for n in same} == {n: fields[n].default for n in same}


def test_a_dataset_says_what_it_reads(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = repr(DedupDataset("input_tests", lake.settings, batch_size=10, unit="requests", rank=1, world_size=2))
    plan = DedupDataset("input_tests", lake.settings).plan
    rows = f"{plan.num_requests:,} requests, {plan.num_impressions:,} impressions"
    assert shown == f"DedupDataset(input_tests, version 1: {rows}, batches of 10 requests, rank 1 of 2)"
    # As of a struct, which no log of these tests has.
    monkeypatch.setattr("dedup_storage.reader.open.project.can_be_tensor", lambda kind: not pa.types.is_floating(kind))
    without = DedupDataset("input_tests", lake.settings)
    assert without.plan.left_out
    assert repr(without).endswith(f", without {', '.join(without.plan.left_out)} (no tensor form))")
    assert DedupDataset("input_tests", lake.settings, columns=["item_id"]).plan.left_out == ()


@pytest.mark.parametrize("strings", [False, True])
def test_users_to_read_are_exact_keys_and_those_not_found_are_counted(lake: Lake, name: str, strings: bool) -> None:
    lake.write(name, make_log(users=3, string_users=strings))
    known: list[int | str] = ["usér-0-日", "usér-2-日"] if strings else [0, "2"]
    dataset = DedupDataset(name, lake.settings, filters={"users": [*known, "77"]})
    assert dataset.plan.num_requests == 10
    assert dataset.plan.users_not_found == 1
    assert "1 user asked for not found" in repr(dataset)
    for broken in (1.0, True, dt.date(2024, 1, 1), np.float64(2), None):
        with pytest.raises(ConfigError, match="no user keys, which are integers or texts: 1 of 2"):
            DedupDataset(name, lake.settings, filters={"users": [*known[:1], broken]})
    if not strings:
        for broken in ("0042", "4e1", "2.0", 2**63):
            with pytest.raises(ConfigError, match="no keys of user_id: 1 of 1: number 1"):
                DedupDataset(name, lake.settings, filters={"users": [broken]})
    with pytest.raises(ConfigError, match="no numbers of buckets: 1 of 2: number 1"):
        DedupDataset(name, lake.settings, filters={"buckets": [1.0, 2]})
