"""What is missing is no value: null elements, null items, and names that a batch uses itself."""

from __future__ import annotations

import sys
import types
from typing import Any

import pyarrow as pa
import pytest
import torch

from dedup_storage.errors import SchemaError, UsageError
from dedup_storage.reader import Column, DedupBatch, DedupDataset
from dedup_storage.reader.decode.encode import encode_scalars
from dedup_storage.schema import Grain
from dedup_storage.training.masks import NULL_ID
from tests.reader.lake import Lake, make_log

TAGS = [["a", None, "b"], None, [None], ["b"]]


@pytest.fixture(scope="module")
def batch(lake: Lake) -> DedupBatch:
    """One batch of a log whose texts, lists and items have nulls, and whose column ``lengths`` is its own."""
    log = make_log(users=4, requests_per_user=1, days=1)
    requests = log.requests.append_column("tags", pa.array(TAGS, pa.list_(pa.string())))
    requests = requests.append_column("lengths", pa.array([7, 8, 9, 10]))
    items = log.impressions["item_id"].to_pylist()
    items[0], items[-1] = None, 0
    place = log.impressions.column_names.index("item_id")
    impressions = log.impressions.set_column(place, "item_id", pa.array(items, pa.int64()))
    own = dict.fromkeys(("tags", "lengths"), Grain.REQUEST)
    schema = log.schema.model_copy(update={"columns": {**log.schema.columns, **own}})
    log.schema, log.requests, log.impressions = schema, requests, impressions
    lake.standing("missing_tests", log, buckets=1)
    (only,) = DedupDataset("missing_tests", lake.settings, shuffle=False, splits=1)
    return only


def test_null_elements_are_padding_and_never_a_code(batch: DedupBatch) -> None:
    tags = batch["tags"]
    by_user = dict(zip(batch["user_id"].values.tolist(), tags.decode(), strict=True))
    assert [by_user[u] for u in range(4)] == TAGS
    words = tags.vocabulary or ()
    for row, told in zip(tags.to_padded(3, len(words)).tolist(), tags.decode(), strict=True):
        slow = [len(words) if word is None else words.index(word) for word in told or ()]
        assert row == [len(words)] * (3 - len(slow)) + slow
    assert int(tags.to_padded(3).min()) >= 0
    kept = [[words.index(w) for w in told or () if w is not None] for told in tags.decode()]
    assert [t.tolist() for t in batch.to_nested()["tags"].unbind()] == kept
    ids = tags.ids().tolist()
    flat = [word for told in tags.decode() for word in told or ()]
    assert [i == NULL_ID for i in ids] == [word is None for word in flat]


def test_a_jagged_tensor_of_torchrec_has_no_null_elements(batch: DedupBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}
    module = types.ModuleType("torchrec.sparse.jagged_tensor")
    module.KeyedJaggedTensor = lambda **parts: made.update(parts)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchrec.sparse.jagged_tensor", module)
    batch.to_kjt(columns=["tags"])
    assert int(made["values"].min()) >= 0
    assert made["lengths"].tolist() == [sum(w is not None for w in told or ()) for told in batch["tags"].decode()]


def test_a_null_item_equals_no_item_and_is_no_negative(batch: DedupBatch) -> None:
    items, ids = batch["item_id"].decode(), batch.item_ids().tolist()
    assert [i == NULL_ID for i in ids] == [i is None for i in items]
    assert [i for i in ids if i != NULL_ID] == [i for i in items if i is not None]
    users = batch.user_ids("impression").tolist()
    slow = [
        [i == j or (items[j] is not None and users[i] != users[j] and items[i] != items[j]) for j in range(len(items))]
        for i in range(len(items))
    ]
    assert batch.negative_mask().tolist() == slow


def test_a_column_called_lengths_stands_beside_the_lengths(batch: DedupBatch) -> None:
    plain = batch.as_dict()
    assert plain["lengths"].tolist() == batch.lengths.tolist()
    assert sorted(plain["request.lengths"].tolist()) == [7, 8, 9, 10]
    twice = batch.with_columns(requests={"history.offsets": torch.zeros(batch.num_requests)})
    with pytest.raises(UsageError, match=r"two tensors of the batch would be called history\.offsets"):
        twice.as_dict()


def test_unsigned_integers_of_64_bits_stay_what_they_are() -> None:
    stored = pa.array([2**64 - 1, 2**63 + 1, 2**63 + 2, 5, None], pa.uint64()).cast(pa.decimal128(20, 0))
    (read,) = encode_scalars([stored], "dictionary")
    column = Column(torch.tensor(read.values), valid=torch.tensor(read.valid))
    assert column.decode() == [2**64 - 1, 2**63 + 1, 2**63 + 2, 5, None]
    assert [i % 2**64 for i in column.ids().tolist()[:4]] == [2**64 - 1, 2**63 + 1, 2**63 + 2, 5]
    assert column.ids().tolist()[4] == NULL_ID
    with pytest.raises(SchemaError, match=r"decimal\(20,0\)"):
        encode_scalars([pa.array([-1]).cast(pa.decimal128(20, 0))], "dictionary")
