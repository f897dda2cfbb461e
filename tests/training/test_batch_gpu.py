"""Every method of a batch, and of its columns, gives on a GPU what it gives on the CPU; skipped elsewhere."""

from __future__ import annotations

import copy
import datetime
import pickle
import sys
import types
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dedup_storage.reader import Column, DedupBatch, IdVocabulary, flat_batch
from dedup_storage.reader.decode.encode import Forms
from dedup_storage.reader.decode.pack import BatchPacker, Part
from dedup_storage.reader.decode.window import encode_window
from dedup_storage.reader.progress import Progress
from tests.training.device import DEVICE, needs_cuda, needs_device, same

pytestmark = needs_device
VOCABULARY = IdVocabulary(pa.array([3, 1, 7]), np.array([5, 3, 2]), {"columns": ["history"]})
UNSIGNED = ("tiny", "short", "middle", "long")


def _lists(values: list[Any], kind: pa.DataType, *, views: bool) -> pa.Array:
    """Lists, one of them null; as views the second and the third share elements."""
    if not views:
        return pa.array([values[:2], values[1:4], None, [], values], pa.list_(kind))
    starts, sizes = pa.array([0, 1, 0, 0, 0], pa.int64()), pa.array([2, 3, 0, 0, len(values)], pa.int64())
    mask = pa.array([False, False, True, False, False])
    return pa.LargeListViewArray.from_arrays(starts, sizes, pa.array(values, kind), mask=mask)


def _tables(views: bool) -> tuple[pa.Table, pa.Table]:
    """Five requests and nine impressions with what columns may have: texts, nulls, integers without a sign, times."""
    requests = pa.table(
        {
            "user_id": pa.array(["ann", "bob", "ann", "cy", "bob"]),
            "country": pa.array(["de", None, "fr", "de", None]),
            "age": pa.array([30.5, None, 41.0, 7.25, None], pa.float32()),
            "history": _lists([7, None, 3, 9, 1], pa.int64(), views=views),
            "words": _lists(["x", "y", None, "x", "z"], pa.string(), views=views),
            "tiny": pa.array([1, 255, 0, 3, 4], pa.uint8()),
            "short": pa.array([1, 65535, 0, 3, 4], pa.uint16()),
            "middle": pa.array([1, 2**32 - 1, 0, 3, 4], pa.uint32()),
            "long": pa.array([Decimal(1), Decimal(2**64 - 1), None, Decimal(3), Decimal(4)], pa.decimal128(20, 0)),
            "longs": _lists([Decimal(2**64 - 1), Decimal(2), None, Decimal(4)], pa.decimal128(20, 0), views=views),
            "shorts": _lists([65535, 2, 3, 4], pa.uint16(), views=views),
            "half": pa.array(np.arange(5, dtype=np.float16)),
            "active": pa.array([True, None, False, True, False]),
            "day": pa.array([datetime.date(2024, 1, day) for day in range(1, 6)]),
            "at": pa.array([datetime.datetime(2024, 1, day) for day in range(1, 6)], pa.timestamp("us")),
        }
    )
    impressions = pa.table(
        {
            "item_id": pa.array([5, 6, None, 5, 6, 7, 5, 8, 9], pa.int64()),
            "label": pa.array([0, 1, 1, None, 0, 1, 0, 1, 1], pa.float32()),
            "tags": pa.array([[1], None, [2, None], [], [3], [1, 2, 3], [], [4], [5]], pa.list_(pa.int32())),
            "sku": pa.array(["a", "b", None, "a", "c", "b", "a", "d", "e"]),
        }
    )
    return requests, impressions


@cache
def batch_of(kind: str) -> DedupBatch:
    """A batch on the CPU as the reader packs it."""
    vocabularies = {"history": VOCABULARY} if kind == "vocabulary" else {}
    forms = Forms("hash" if kind == "hash" else "dictionary", vocabularies, shared=kind == "shared")
    requests, impressions = _tables(kind == "shared")
    lengths = np.array([2, 1, 3, 0, 3])
    window = encode_window(requests, impressions, lengths, np.array([4, 0, 2, 1, 3]), forms)
    rows, lengths = (5, lengths[[4, 0, 2, 1, 3]]) if kind != "empty" else (0, lengths[:0])
    packer = BatchPacker("user_id", "item_id", ("label",), ("history",), forms)
    batch = packer.pack([Part(window, (0, rows), (0, int(lengths.sum())), lengths)], Progress())
    if kind == "added":
        batch = batch.with_columns({"vector": torch.arange(10.0).view(5, 2)}, {"age": torch.arange(9)})
    return batch


def _added(batch: DedupBatch) -> DedupBatch:
    # A transform's tensors are on the CPU, wherever the batch lies.
    strings = Column(torch.zeros(batch.num_impressions, dtype=torch.int32), vocabulary=("a",))
    return batch.with_columns({"vector": torch.ones(batch.num_requests, 2)}, {"constant": strings})


def _gradient(batch: DedupBatch) -> Tensor:
    rows = torch.arange(batch.num_requests * 2.0, device=batch.device).view(-1, 2).requires_grad_()
    (gradient,) = torch.autograd.grad((batch.expand(rows) ** 2).sum(), rows)
    return gradient


def _padded(batch: DedupBatch) -> dict[str, list[Tensor]]:
    lists = {name: column for name, column in batch.requests.items() if column.is_list}
    return {name: [c.to_padded(3), c.to_padded(7, 1), c.known().to_padded(2)] for name, c in lists.items()}


def _numbers(batch: DedupBatch) -> dict[str, Column]:
    return {name: batch[name] for name in batch if not batch[name].values.is_floating_point()}


CALLS: dict[str, Callable[[DedupBatch], Any]] = {
    "itself": lambda b: b,
    "offsets": lambda b: [b.offsets, b.counts()],
    "columns": lambda b: [dict(b.requests), dict(b.impressions), dict(b.labels)],
    "bytes": lambda b: b.num_bytes,
    "users": lambda b: [b.user_ids(), b.user_ids("impression"), *b.request_users()],
    "items": lambda b: [b.item_ids(), b.item_ids("sku"), b.item_ids("user_id")],
    "ids": lambda b: {name: c.ids() for name, c in _numbers(b).items()},
    "buckets": lambda b: {name: c.buckets(50) for name, c in _numbers(b).items()},
    "known": lambda b: {name: b[name].known() for name in b},
    "lengths": lambda b: {name: b[name].lengths for name in b},
    "decode": lambda b: {name: [repr(v) for v in b[name].decode()] for name in b if b[name].values.dim() == 1},
    "padded": _padded,
    "nested": lambda b: b.to_nested(),
    "plain": lambda b: b.as_dict(),
    "jagged": lambda b: [b.to_kjt(buckets=9), b.to_kjt(["history", "long"]), b.to_kjt(["item_id"], "impression")],
    "arrow": lambda b: [b.to_arrow().to_pydict().__repr__(), b.to_arrow("request").to_pydict().__repr__()],
    "pandas": lambda b: b.to_pandas().to_json() if find_spec("pandas") else None,
    "expand": lambda b: {name: b.expand(b[name].values) for name in ("age", "active", "half", *UNSIGNED)},
    "gradient": _gradient,
    "negative mask": lambda b: [b.negative_mask(), b.negative_mask(item_column="sku")],
    "moments": lambda b: list(b.weighted_moments(b["at"].values.unsqueeze(1) % 1000)) if len(b) else None,
    "shared": lambda b: b.shared,
    "requests": lambda b: b.to_requests(),
    "flat": flat_batch,
    "added": _added,
    "copied": copy.deepcopy,
    "pickled": lambda b: pickle.loads(pickle.dumps(b)),  # noqa: S301
}
# What goes by the columns as they were made.
NOT_ADDED = {"arrow", "pandas", "nested", "expand", "jagged"}


@pytest.fixture(autouse=True)
def torchrec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jagged tensors are what they are made of."""
    module = types.ModuleType("torchrec.sparse.jagged_tensor")
    module.KeyedJaggedTensor = lambda **parts: parts  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchrec.sparse.jagged_tensor", module)


@pytest.mark.parametrize("kind", ["dictionary", "hash", "vocabulary", "shared", "empty", "added"])
def test_each_call_gives_the_same(kind: str) -> None:
    batch = batch_of(kind)
    there = batch.to(DEVICE)
    for name, call in CALLS.items():
        if kind == "added" and name in NOT_ADDED:
            continue
        try:
            same(call(there), call(batch), 1e-2 if name == "moments" else 0.0)
        except Exception as error:
            error.add_note(f"in {name}")
            raise


def test_a_batch_comes_back() -> None:
    batch = batch_of("shared")
    back = _added(batch).to(DEVICE).to("cpu")
    assert torch.equal(back.buffer, batch.buffer)
    assert str(batch.to(DEVICE)).count("\n") == str(batch).count("\n")
    assert DEVICE in repr(batch.to(DEVICE)["history"]) or DEVICE == "cpu"


def test_what_a_transform_adds_moves_to_the_batch() -> None:
    rows = torch.ones(5, 2, requires_grad=True)
    added = batch_of("dictionary").to(DEVICE).with_columns({"vector": rows})
    assert added["vector"].values.device == added.device
    added.expand(added["vector"].values).sum().backward()
    assert rows.grad is not None
    assert rows.grad[:, 0].tolist() == batch_of("dictionary").lengths.tolist()


def test_rows_and_a_batch_on_two_devices_are_expanded_where_the_rows_lie() -> None:
    batch = batch_of("dictionary")
    rows = torch.arange(10.0).view(5, 2)
    same(batch.expand(rows.to(DEVICE)), batch.expand(rows))
    assert batch.to(DEVICE).expand(rows).device.type == "cpu"
    same(list(batch.weighted_moments(rows.to(DEVICE))), list(batch.weighted_moments(rows)), 1e-5)


def test_ids_on_a_device_are_decoded() -> None:
    batch = batch_of("vocabulary")
    ids = batch["history"].values
    assert VOCABULARY.decode(ids.to(DEVICE)).to_pylist() == VOCABULARY.decode(ids).to_pylist()


@needs_cuda
@pytest.mark.parametrize("kind", ["dictionary", "added", "shared"])
def test_a_pinned_batch_is_copied_beside_other_work(kind: str) -> None:
    batch = batch_of(kind)
    assert not batch.is_pinned()
    pinned = batch.pin_memory()
    assert pinned.is_pinned()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        there = pinned.to("cuda", non_blocking=True)
    torch.cuda.current_stream().wait_stream(stream)
    there.record_stream(torch.cuda.current_stream())
    same(there, batch)


class _Given(torch.utils.data.IterableDataset[DedupBatch]):
    def __iter__(self) -> Any:
        nothing = batch_of("empty").with_columns({"vector": torch.ones(0, 2)})
        return iter([batch_of("dictionary"), nothing, batch_of("added")])


@needs_cuda
def test_a_loader_pins_batches() -> None:
    for batch in DataLoader(_Given(), batch_size=None, pin_memory=True):
        assert batch.is_pinned()
        same(batch.to("cuda", non_blocking=True), batch)
