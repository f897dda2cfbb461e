"""Behaviour 30: what a batch gives a trainer."""

from __future__ import annotations

import datetime as dt
import sys
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from dedup_storage.errors import InverseIndexError, MissingDependencyError, UnknownColumnError, UsageError
from dedup_storage.reader import Column, DedupBatch, DedupDataset
from dedup_storage.reader.shared import SharedLists
from dedup_storage.schema import Grain
from dedup_storage.training.masks import NULL_ID
from tests.reader.lake import Lake, make_log


@pytest.fixture(scope="module")
def batches(lake: Lake) -> list[DedupBatch]:
    lake.standing("batch_tests", make_log(), buckets=2)
    return list(DedupDataset("batch_tests", lake.settings, batch_size=40))


@pytest.fixture(params=range(3))
def batch(request: pytest.FixtureRequest, batches: list[DedupBatch]) -> DedupBatch:
    return batches[request.param]


def test_lengths_offsets_and_inverse_agree(batch: DedupBatch) -> None:
    slow = [r for r, n in enumerate(batch.lengths.tolist()) for _ in range(n)]
    assert batch.inverse_indices.tolist() == slow
    assert batch.offsets.tolist()[-1] == batch.num_impressions == len(batch) == len(slow)
    assert batch.inverse_indices.dtype == batch.lengths.dtype == torch.int64


def test_30_expand_is_differentiable_and_checks_rows(batch: DedupBatch) -> None:
    rows = torch.randn(batch.num_requests, 3, requires_grad=True)
    expanded = batch.expand(rows)
    assert torch.equal(expanded, torch.stack([rows[r] for r in batch.inverse_indices.tolist()]))
    expanded.sum().backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    assert torch.equal(rows.grad[:, 0], batch.counts().float())
    with pytest.raises(InverseIndexError, match="one row per request"):
        batch.expand(rows[:-1])


def test_user_ids_at_both_levels(batch: DedupBatch) -> None:
    assert torch.equal(batch.user_ids("impression"), batch.user_ids()[batch.inverse_indices])


def test_negative_mask_equals_the_formula(batch: DedupBatch) -> None:
    users, items = batch.user_ids("impression").tolist(), (batch["item_id"].values % 3).tolist()
    small = batch.with_columns(impressions={"small": torch.tensor(items)})
    mask = small.negative_mask(item_column="small")
    slow = [
        [i == j or (users[i] != users[j] and items[i] != items[j]) for j in range(len(users))]
        for i in range(len(users))
    ]
    assert mask.tolist() == slow
    padded_users = torch.cat([torch.tensor([-1, -2]), small.user_ids("impression")])
    padded_items = torch.cat([torch.tensor([-1, -2]), torch.tensor(items)])
    gathered = small.negative_mask(padded_users, padded_items, item_column="small", first=2)
    assert gathered[:, 2:].tolist() == slow
    assert bool(gathered[:, :2].all())
    # One impression would be compared with anything, without a word.
    for wrong in ({"users": padded_users}, {"users": padded_users, "items": padded_items, "first": 3}):
        with pytest.raises(UsageError, match="the candidates do not fit"):
            small.negative_mask(**wrong, item_column="small")


def test_weighted_moments_equal_the_expanded_ones(batch: DedupBatch) -> None:
    rows = torch.randn(batch.num_requests, 4, dtype=torch.float64)
    mean, variance = batch.weighted_moments(rows)
    expanded = batch.expand(rows)
    torch.testing.assert_close(mean, expanded.mean(0))
    torch.testing.assert_close(variance, expanded.var(0, unbiased=False))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weighted_moments_of_half_precision_count_every_impression(
    batches: list[DedupBatch], dtype: torch.dtype
) -> None:
    # 80,000 impressions: more than float16 holds, of requests whose numbers bfloat16 cannot tell apart.
    lengths = [257, 255, 79_488]
    layout, sizes = batches[0].layout, (3, 0, *batches[0].sizes[2:])
    buffer = torch.zeros(layout.bases(sizes)[-1], dtype=torch.uint8)
    large = replace(batches[0], buffer=buffer, sizes=sizes)
    large.lengths.copy_(torch.tensor(lengths))
    rows = torch.tensor([[100.0], [-100.0], [0.0]], dtype=dtype)
    mean, variance = large.weighted_moments(rows)
    expanded = rows.double().repeat_interleave(torch.tensor(lengths), 0)
    torch.testing.assert_close(mean, expanded.mean(0).to(dtype))
    torch.testing.assert_close(variance, expanded.var(0, unbiased=False).to(dtype))


def test_nested_padded_and_plain_forms(batch: DedupBatch) -> None:
    history = batch["history"]
    rows = [row if row is not None else [] for row in history.decode()]
    assert [t.tolist() for t in batch.to_nested()["history"].unbind()] == rows
    assert history.to_padded(3, -1).tolist() == [[-1] * (3 - len(r[-3:])) + r[-3:] for r in rows]
    plain = batch.as_dict()
    assert torch.equal(plain["history"], history.values)
    assert plain["history.offsets"].tolist()[-1] == len(history.values)
    assert set(plain) >= {"inverse_indices", "lengths", "user_id", "label"}
    assert list(batch.labels) == ["label"]


def test_nulls_have_the_documented_form(batches: list[DedupBatch]) -> None:
    seen = set()
    for batch in batches:
        for name, zero in (("age", None), ("history", 0), ("country", -1)):
            column = batch[name]
            if column.valid is None:
                continue
            null = ~column.valid
            seen.add(name)
            if name == "history":
                assert bool((column.lengths[null] == zero).all())
            elif zero is None:
                assert bool(column.values[null].isnan().all())
            else:
                assert bool((column.values[null] == zero).all())
    assert seen == {"age", "history", "country"}


def test_hashed_strings_agree_between_batches(lake: Lake, name: str) -> None:
    log = make_log(string_users=True)
    lake.write(name, log)
    hashes: dict[Any, set[int]] = {}
    coded = list(DedupDataset(name, lake.settings, batch_size=20))
    hashed = list(DedupDataset(name, lake.settings, batch_size=20, strings="hash"))
    for left, right in zip(coded, hashed, strict=True):
        for user, value in zip(left["user_id"].decode(), right["user_id"].values.tolist(), strict=True):
            hashes.setdefault(user, set()).add(value)
    assert len(hashes) == 12
    assert all(len(values) == 1 for values in hashes.values())
    assert len({next(iter(v)) for v in hashes.values()}) == 12


def test_ids_of_strings_are_the_hashes_whatever_the_form(lake: Lake, name: str) -> None:
    lake.write(name, make_log(string_users=True))
    coded = list(DedupDataset(name, lake.settings, batch_size=20))
    hashed = list(DedupDataset(name, lake.settings, batch_size=20, strings="hash"))
    for left, right in zip(coded, hashed, strict=True):
        assert left.user_ids().dtype == torch.int64
        for level in ("request", "impression"):
            assert torch.equal(left.user_ids(level), right.user_ids(level))
        assert torch.equal(left.item_ids(), right.item_ids())
        assert torch.equal(left.item_ids("category"), right["category"].values)
        # A request-grain column is expanded; its nulls are no item, and equal none.
        country = right["country"]
        ids = country.values if country.valid is None else torch.where(country.valid, country.values, NULL_ID)
        assert torch.equal(left.item_ids("country"), right.expand(ids))
        assert torch.equal(left.negative_mask(), right.negative_mask())
        assert torch.equal(left["interests"].ids(), right["interests"].values)
    with pytest.raises(TypeError, match="are not ids"):
        coded[0]["price"].ids()


def _as_dict(batch: DedupBatch) -> dict[str, torch.Tensor]:
    return batch.as_dict()


def _bits(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """What tensors hold, NaN too."""
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_a_batch_crosses_a_worker_as_one_tensor_in_memory_that_is_used_again(
    lake: Lake, batches: list[DedupBatch]
) -> None:
    dataset = DedupDataset("batch_tests", lake.settings, batch_size=40)
    alone = [_bits(b.as_dict()) for b in batches]
    loader = DataLoader(dataset, batch_size=None, num_workers=1, persistent_workers=True)
    places, kept, parts = [], [], []
    for number, left in enumerate(loader):
        assert left["item_id"].values.untyped_storage().data_ptr() == left.lengths.untyped_storage().data_ptr()
        assert list(left.as_dict()) == list(alone[number])
        assert _bits(left.as_dict()) == alone[number]
        assert left["history"].decode() == batches[number]["history"].decode()
        places.append(left.buffer.data_ptr())
        if number % 3 == 0:
            kept.append((number, left))
        elif number % 3 == 1:
            # One tensor of a batch keeps all of it.
            parts.append((number, left["item_id"].values))
    assert len(set(places)) < len(places) == len(alone)
    # While another epoch is read, what is still at hand stays what it was.
    assert len(list(loader)) == len(alone)
    assert all(_bits(left.as_dict()) == alone[number] for number, left in kept)
    assert all(values.numpy().tobytes() == alone[number]["item_id"] for number, values in parts)
    # A transform may deliver the tensors alone.
    dataset = DedupDataset("batch_tests", lake.settings, batch_size=40, transform=_as_dict)
    assert [_bits(tensors) for tensors in DataLoader(dataset, batch_size=None, num_workers=1)] == alone


def test_a_forked_process_keeps_the_batches_that_its_parent_had(lake: Lake, batches: list[DedupBatch]) -> None:
    dataset = DedupDataset("batch_tests", lake.settings, batch_size=40)
    loader = iter(DataLoader(dataset, batch_size=None, num_workers=1))
    held, expected = [next(loader)], batches[0]["item_id"].values.tolist()
    go, found = get_context("fork").Event(), get_context("fork").SimpleQueue()

    def look() -> None:
        go.wait(60)
        found.put(held[0]["item_id"].values.tolist())

    child = get_context("fork").Process(target=look)
    child.start()
    held.clear()
    rest = [batch["item_id"].values.tolist() for batch in loader]
    go.set()
    assert found.get() == expected
    child.join(60)
    assert rest == [batch["item_id"].values.tolist() for batch in batches[1:]]


def test_30_every_tensor_is_moved_and_stream_recorded(batch: DedupBatch) -> None:
    extended = batch.with_columns(requests={"extra": torch.ones(batch.num_requests)})
    moved = extended.to("meta")
    assert {t.device.type for t in moved.as_dict().values()} == {"meta"}
    recorded: list[torch.Tensor] = []

    class Recorder:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def record_stream(self, stream: Any) -> None:
            recorded.append(self.tensor)

    storages = {t.untyped_storage().data_ptr() for t in extended.as_dict().values()}
    object.__setattr__(extended, "buffer", Recorder(extended.buffer))
    extra = extended.extras["extra"][1]
    object.__setattr__(extra, "values", Recorder(extra.values))
    extended.record_stream(None)
    assert {t.untyped_storage().data_ptr() for t in recorded} == storages


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinning needs an accelerator")
def test_30_every_tensor_is_pinned(batch: DedupBatch) -> None:
    assert all(t.is_pinned() for t in batch.pin_memory().as_dict().values())


def test_unknown_columns_and_wrong_rows_are_named(batch: DedupBatch) -> None:
    with pytest.raises(UnknownColumnError, match=r"no column item; expected one of item_id"):
        batch["item"]
    with pytest.raises(InverseIndexError, match="the column x does not fit the request grain"):
        batch.with_columns(requests={"x": torch.ones(batch.num_requests + 1)})


def test_to_kjt_without_torchrec_says_so(batch: DedupBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchrec.sparse.jagged_tensor", None)
    with pytest.raises(MissingDependencyError, match="to_kjt needs torchrec"):
        batch.to_kjt()


def test_a_batch_and_a_column_print_shapes_and_dtypes_never_values(batch: DedupBatch) -> None:
    shown = repr(batch)
    first, requests, impressions = shown.split("\n")
    assert first.startswith(f"DedupBatch({batch.num_requests} requests, {batch.num_impressions} impressions, ")
    assert f"on cpu, batch {batch.progress.index}" in first
    assert requests.startswith("  request: user_id int64, request_id int64, ")
    assert "lists of int64" in requests
    assert impressions.startswith("  impression: ")
    assert "item_id int64" in impressions
    assert repr(batch["item_id"]) == f"Column(values=int64 ({batch.num_impressions},))"
    history = next(column for column in batch.requests.values() if column.is_list)
    assert f"offsets=int64 ({batch.num_requests + 1},)" in repr(history)


def test_many_columns_are_counted_not_listed(batch: DedupBatch) -> None:
    many = batch.with_columns(impressions={f"extra_{n}": torch.zeros(len(batch)) for n in range(300)})
    shown = repr(many)
    assert len(shown.splitlines()) == 3
    assert len(shown) < 1500
    assert f"and {len(many.impressions) - 12} further columns" in shown


def test_a_column_of_strings_counts_them_and_shows_none() -> None:
    column = Column(torch.tensor([0, 1, 0], dtype=torch.int32), vocabulary=("secret", "word"))
    assert repr(column) == "Column(values=int32 (3,), vocabulary=2 strings)"
    shared = SharedLists(column.values, torch.tensor([0, 1]), torch.tensor([3, 3]), vocabulary=column.vocabulary)
    assert repr(shared) == "SharedLists(values=int32 (3,), starts=int64 (2,), ends=int64 (2,), vocabulary=2 strings)"


EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
IN_TIME = {
    "event_date": lambda days: (EPOCH + dt.timedelta(days=days)).date(),
    "event_time": lambda micros: EPOCH + dt.timedelta(microseconds=micros),
}


def test_tables_for_people_hold_the_rows(batches: list[DedupBatch]) -> None:
    for batch in batches:
        frame, inverse = batch.to_pandas(), batch.inverse_indices.tolist()
        assert list(frame.columns) == list(batch)
        for name, grain in batch.grains.items():
            values = batch[name].decode()
            values = [IN_TIME[name](value) for value in values] if name in IN_TIME else values
            whole = [values[i] for i in inverse] if grain is Grain.REQUEST else values
            assert batch.to_arrow()[name].to_pylist() == whole
        assert {str(frame[name].dtype) for name in IN_TIME} == {"datetime64[ms]", "datetime64[us, UTC]"}
        requests = batch.to_arrow("request")
        assert requests.column_names == list(batch.requests)
        assert requests["history"].to_pylist() == batch["history"].decode()
