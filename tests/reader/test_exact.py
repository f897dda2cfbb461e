"""What would become another value on its way to a tensor is refused, and says where."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dedup_storage.errors import SchemaError, StorageError, UsageError
from dedup_storage.reader import Column, DedupBatch, DedupDataset
from dedup_storage.reader.decode.encode import encode_scalars
from dedup_storage.schema import Grain
from tests.reader.lake import Lake, Log, make_log

FAR = [dt.datetime(1600, 2, 29, tzinfo=dt.UTC), None, dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)]


def _with_times() -> Log:
    """A log with times far from 1970, one a request and lists of them."""
    log = make_log(users=3, requests_per_user=2)
    rows = log.requests.num_rows
    times = {
        "until": pa.array([FAR[i % 3] for i in range(rows)], pa.timestamp("us", tz="UTC")),
        "untils": pa.array([FAR[: i % 4] for i in range(rows)], pa.list_(pa.timestamp("us", tz="UTC"))),
    }
    for name, values in times.items():
        log.requests = log.requests.append_column(name, values)
    columns = {**log.schema.columns, **dict.fromkeys(times, Grain.REQUEST)}
    log.schema = log.schema.model_copy(update={"columns": columns})
    return log


def _rewritten(lake: Lake, name: str, change: Callable[[pa.Table], pa.Table], **options: Any) -> None:
    """Write a dataset's files of requests again, as another writer would."""
    for file in lake.table(name, "requests").inspect.files()["file_path"].to_pylist():
        path = file.removeprefix("file://")
        pq.write_table(change(pq.read_table(path)), path, **options)


def test_times_of_96_bits_are_read_in_all_years(lake: Lake, name: str) -> None:
    log = _with_times()
    lake.write(name, log, buckets=1)
    _rewritten(lake, name, lambda rows: rows, use_deprecated_int96_timestamps=True)
    batches = DedupDataset(name, lake.settings, columns=["until", "untils"])
    found = pa.concat_tables(b.to_arrow("request").select(["request_id", "until", "untils"]) for b in batches)
    stored = log.requests.select(["request_id", "until", "untils"])
    assert found.sort_by("request_id").to_pylist() == stored.sort_by("request_id").to_pylist()


def test_a_file_with_nanoseconds_between_microseconds_is_named(lake: Lake, name: str) -> None:
    log = make_log(users=3, requests_per_user=2)
    lake.write(name, log, buckets=1)
    place = log.requests.column_names.index("event_time")

    def nanoseconds(rows: pa.Table) -> pa.Table:
        numbers = rows["event_time"].cast(pa.int64()).to_numpy() * 1000 + 1
        kind = rows.schema.field(place).with_type(pa.timestamp("ns", "UTC"))
        return rows.set_column(place, kind, pa.array(numbers).cast(kind.type))

    _rewritten(lake, name, nanoseconds)
    with pytest.raises(StorageError, match=r"has values of the column event_time that its table cannot.*timestamp\[ns"):
        list(DedupDataset(name, lake.settings))
    # Who does not read it is not troubled.
    assert sum(b.num_requests for b in DedupDataset(name, lake.settings, columns=["age"])) == log.requests.num_rows


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (1_577_836_800_000_000_001, pa.timestamp("ns"), "values of timestamp[ns] would become others"),
        (2**62, pa.timestamp("s"), "values of timestamp[s] would become others"),
        (5, pa.time64("ns"), "values of time64[ns] would become others"),
        (2**62, pa.duration("s"), "values of duration[s] would become others"),
        (5, pa.date64(), "values of date64[ms] would become others"),
        (Decimal(2**53 + 1), pa.decimal128(19, 0), "values of decimal128(19, 0) are read as float64"),
        (Decimal(-(10**30)), pa.decimal128(38, 0), "values of decimal128(38, 0) are read as float64"),
    ],
)
def test_a_value_that_no_tensor_holds_is_refused(exact: DedupDataset, value: Any, kind: pa.DataType, said: str) -> None:
    one = pa.array([value]).cast(pa.int64()).view(kind) if isinstance(value, int) else pa.array([value], kind)
    for values in (one, pa.ListArray.from_arrays([0, 1], one)):
        exact.arrow_transform = lambda r, i, v=values: (r.append_column("x", pa.repeat(v[0], r.num_rows)), i)
        with pytest.raises(SchemaError) as refused:
            next(iter(exact))
        assert str(refused.value).startswith(f"the column x cannot be made a tensor: {said}")


def test_whole_numbers_and_fractions_of_decimals() -> None:
    whole = pa.array([Decimal(2**53 - 1), None, Decimal(1 - 2**53)], pa.decimal128(38, 0))
    (read,) = encode_scalars([whole], "dictionary")
    assert read.values[[0, 2]].tolist() == [2**53 - 1, 1 - 2**53]
    (read,) = encode_scalars([pa.array([Decimal("90071992547409931.25")], pa.decimal128(38, 2))], "dictionary")
    assert read.values.tolist() == [90071992547409931.25]


@pytest.fixture(scope="module")
def standing(lake: Lake) -> str:
    lake.standing("exact_tests", make_log(users=4, requests_per_user=2), buckets=1)
    return "exact_tests"


@pytest.fixture
def exact(lake: Lake, standing: str) -> DedupDataset:
    return DedupDataset(standing, lake.settings, prefetch=0, shuffle=False, batch_size=1000)


@pytest.fixture
def batch(exact: DedupDataset) -> DedupBatch:
    return next(iter(exact))


def test_a_hook_gives_each_name_once_in_two_tables(exact: DedupDataset) -> None:
    def called(name: str) -> Callable[[pa.Table, pa.Table], Any]:
        return lambda r, i: (r.append_column(name, pa.array([7.0] * r.num_rows)), i)

    for name in ("price", "country"):
        exact.arrow_transform = called(name)
        with pytest.raises(SchemaError, match=f"several columns of one name; .* got {name}"):
            next(iter(exact))
    for given, said in (
        (lambda r, i: r, "got Table"),
        (lambda r, i: None, "got NoneType"),
        (lambda r, i: (r, 1), "int"),
    ):
        exact.arrow_transform = given
        with pytest.raises(SchemaError, match=f"something else than the two tables; .*{said}"):
            next(iter(exact))


def test_added_columns_have_one_grain(batch: DedupBatch) -> None:
    with pytest.raises(UsageError, match="two columns are called x"):
        batch.with_columns({"x": torch.zeros(batch.num_requests)}, {"x": torch.zeros(batch.num_impressions)})


def test_padding_is_a_value_of_the_column(batch: DedupBatch) -> None:
    history = batch["history"]
    for column, fill in ((history, 0.5), (history, float("nan")), (history, 2**64), (Column.of([1]), 0)):
        with pytest.raises((UsageError, TypeError), match=r"fill is no value of int64|needs a list column"):
            column.to_padded(3, fill)
    floats = Column(torch.tensor([0.5]), offsets=torch.tensor([0, 1]))
    assert floats.to_padded(2, 0.1).tolist() == [[pytest.approx(0.1), 0.5]]
    assert floats.to_padded(2, float("-inf"))[0, 0] == float("-inf")
    assert torch.isnan(floats.to_padded(2, float("nan"))[0, 0])
    with pytest.raises(UsageError, match="fill is no value of float32; got 1e\\+300"):
        floats.to_padded(2, 1e300)
    nothing = Column(torch.tensor([], dtype=torch.uint8), offsets=torch.tensor([0, 0]))
    assert nothing.to_padded(2, 255).tolist() == [[255, 255]]
    with pytest.raises(UsageError, match="fill is no value of uint8; got -1"):
        nothing.to_padded(2, -1)
    # A batch of users without events, padded to its longest list.
    assert nothing.to_padded(0).shape == (1, 0)
    for length in (-1, 2.0, True):
        with pytest.raises(UsageError, match="length is not valid"):
            history.to_padded(length)  # type: ignore[arg-type]


def test_buckets_are_rows_of_a_table(batch: DedupBatch) -> None:
    for rows in (0, -5, 2.5, True):
        with pytest.raises(UsageError, match="rows is not valid; expected a whole number, 1 or more"):
            batch["item_id"].buckets(rows)  # type: ignore[arg-type]
    assert set(batch["item_id"].buckets(np.int64(1)).tolist()) == {1}  # type: ignore[arg-type]


def test_candidates_come_as_tensors_and_arrow_too() -> None:
    wanted = Column.of([3, 1]).buckets(64).tolist()
    for given in (torch.tensor([3, 1], dtype=torch.int32), pa.array([3, 1]), pa.chunked_array([[3], [1]])):
        assert Column.of(given).buckets(64).tolist() == wanted
    words = pa.array(["b", None, "b"])
    assert Column.of(words.dictionary_encode()).buckets(64).tolist() == Column.of(words).buckets(64).tolist()
    for wrong in ([1, "a"], torch.zeros(2), torch.zeros(2, 2, dtype=torch.int64), [1.5], [[1]]):
        with pytest.raises(UsageError, match="ids are whole numbers or text"):
            Column.of(wrong)
