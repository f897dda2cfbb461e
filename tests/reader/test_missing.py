"""What is missing is no value: null elements, null items, and names that a batch uses itself."""

from __future__ import annotations

import datetime as dt
import pickle
import sys
import types
from abc import ABCMeta
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from dedup_storage.errors import SchemaError, UnknownColumnError, UsageError
from dedup_storage.reader import Column, DedupBatch, DedupDataset
from dedup_storage.reader.decode.encode import Forms, Strings, encode_scalars
from dedup_storage.reader.decode.pack import BatchPacker, Part
from dedup_storage.reader.decode.window import encode_window
from dedup_storage.reader.flat import flat_batch
from dedup_storage.reader.hashing import hash_strings
from dedup_storage.reader.progress import Progress
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
    hashed = replace(batch["tags"], values=batch["tags"].ids(), vocabulary=None)
    batch.with_columns(requests={"tags": hashed}).to_kjt(columns=["tags"])
    words = [word for told in batch["tags"].decode() for word in told or () if word is not None]
    assert made["values"].tolist() == hash_strings(pa.array(words)).tolist()
    assert made["lengths"].tolist() == [sum(w is not None for w in told or ()) for told in batch["tags"].decode()]


def test_codes_of_one_batch_are_no_ids_for_torchrec(batch: DedupBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}
    module = types.ModuleType("torchrec.sparse.jagged_tensor")
    module.KeyedJaggedTensor = lambda **parts: made.update(parts)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchrec.sparse.jagged_tensor", module)
    batch.to_kjt()
    assert made["keys"] == [
        n for n, c in batch.requests.items() if c.values.dtype != torch.float32 and not c.vocabulary
    ]
    with pytest.raises(UsageError, match="the codes of the column tags mean other strings in the next batch"):
        batch.to_kjt(columns=["tags"])
    with pytest.raises(UsageError, match="no integer column at request grain"):
        batch.to_kjt(columns=[])
    batch.to_kjt(columns=["tags", "user_id"], buckets={"tags": 50})
    words = [word for told in batch["tags"].decode() for word in told or () if word is not None]
    hashed = Column.of(words).buckets(50).tolist()
    assert made["values"].tolist() == [*hashed, *batch["user_id"].values.tolist()]
    batch.to_kjt(buckets=50)
    assert "tags" in made["keys"]
    assert 1 <= int(made["values"].min()) <= int(made["values"].max()) <= 50
    with pytest.raises(UnknownColumnError, match="no column nothing at request grain"):
        batch.to_kjt(buckets={"nothing": 50})
    with pytest.raises(UsageError, match="there are buckets for tags, which no column taken is"):
        batch.to_kjt(columns=["user_id"], buckets={"tags": 50})


def test_a_batch_is_what_pipelines_of_torchrec_ask_for(batch: DedupBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = ABCMeta("Pipelineable", (), {})  # they look for it by isinstance
    module = types.ModuleType("torchrec.streamable")
    module.Pipelineable = theirs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchrec.streamable", module)
    moved = batch.to(device=torch.device("cpu"), non_blocking=True)
    assert isinstance(moved, theirs)


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


WORDS = ["b", None, "a", "b"]
# Forms in which Arrow, pandas and polars give one column, and what a batch holds of it.
FORMS: dict[str, tuple[list[Any], list[Any]]] = {
    "text": (
        [
            pa.array(WORDS, pa.string_view()),
            pa.array(WORDS, pa.large_string()).dictionary_encode(),
            pa.DictionaryArray.from_arrays(pa.array([1, None, 0, 1], pa.uint32()), pa.array(["a", "b"])),
            pa.DictionaryArray.from_arrays(pa.array([1, 2, 0, 1]), pa.array(["a", "b", None])),
            pa.chunked_array(
                [
                    pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["b", None])),
                    pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", "b"])),
                ]
            ),
        ],
        WORDS,
    ),
    "bytes": ([pa.array([b"\xff", None, b"", b"\xff"], pa.binary_view())], [b"\xff", None, b"", b"\xff"]),
    "numbers": ([pa.array([7, None, 5, 7]).dictionary_encode()], [7, None, 5, 7]),
    "days": ([pa.array([dt.date(1970, 1, 2), None] * 2, kind) for kind in (pa.date32(), pa.date64())], [1, None] * 2),
    "times of day": (
        [pa.array([dt.time(0, 0, 1), None] * 2, kind) for kind in (pa.time32("ms"), pa.time64("ns"))],
        [1_000_000, None] * 2,
    ),
    "durations": (
        [pa.array([dt.timedelta(seconds=1), None] * 2, pa.duration(unit)) for unit in ("s", "ns")],
        [1_000_000, None] * 2,
    ),
}


@pytest.mark.parametrize("strings", ["dictionary", "hash"])
@pytest.mark.parametrize("kind", list(FORMS))
def test_a_column_of_a_hook_is_the_same_in_every_form(kind: str, strings: Strings) -> None:
    forms, values = FORMS[kind]
    packer = BatchPacker("user", "item", (), (), Forms(strings))
    lengths = np.ones(4, dtype=np.int64)
    for form in forms:
        lists = [form.slice(0, 2).to_pylist(), [], form.slice(2).to_pylist(), []]
        elements = form.type.value_type if isinstance(form.type, pa.DictionaryType) else form.type
        table = pa.table({"one": form, "many": pa.array(lists, pa.list_(elements))})
        batch = packer.pack(
            [Part(encode_window(table, table.select([]), lengths, None, packer.forms), (0, 4), (0, 0), lengths * 0)],
            Progress(),
        )
        text = isinstance(values[0], str | bytes)
        for column in (batch["one"], batch["many"]):
            ids = column.ids().tolist()
            assert [i == NULL_ID for i in ids] == [value is None for value in values]
            if text:
                hashes = hash_strings(pa.array(values)).tolist()
                assert [i for i in ids if i != NULL_ID] == [
                    h for h, v in zip(hashes, values, strict=True) if v is not None
                ]
        if not text or strings == "dictionary":
            assert batch["one"].decode() == values
            assert batch["many"].decode() == [values[:2], [], values[2:], []]


@pytest.mark.parametrize(
    "column",
    [pa.nulls(2), pa.array([{"a": 1}] * 2), pa.array([[[1]]] * 2), pa.array([[1]] * 2, pa.list_(pa.int64(), 1))],
)
def test_a_column_of_a_hook_without_a_tensor_form_is_named(column: pa.Array) -> None:
    table = pa.table({"odd": column})
    with pytest.raises(SchemaError, match=r"the column odd has no tensor form.*cast it in arrow_transform"):
        encode_window(table, table.select([]), np.ones(2, dtype=np.int64), None, Forms())


def test_tables_for_people_have_the_types_of_the_log() -> None:
    """Every type with a null: no date becomes a number, no id a float, whatever way the batch went."""
    big, last = 2**63 - 1, dt.datetime(9999, 12, 31, 23, 59, 59, 999_999)
    columns = {
        "day": pa.array([dt.date(2024, 1, 31), None]),
        "instant": pa.array([last.replace(tzinfo=dt.UTC), None], pa.timestamp("us", "UTC")),
        "local": pa.array([last, None], pa.timestamp("us")),
        "clock": pa.array([dt.time(1, 2, 3, 4), None], pa.time64("us")),
        "lasted": pa.array([dt.timedelta(days=3, microseconds=1), None], pa.duration("us")),
        "price": pa.array([Decimal("1.25"), None], pa.decimal128(10, 2)),
        "unsigned": pa.array([Decimal(2**64 - 1), None], pa.decimal128(20, 0)),
        "whole": pa.array([big, None]),
        "flag": pa.array([True, None]),
        "bytes": pa.array([b"\xff", None]),
        "text": pa.array(["x", None]),
        "no_bytes": pa.array([None, None], pa.binary()),
        "days": pa.array([[dt.date(2024, 1, 31), None], None]),
        "ids": pa.array([[big, None], []]),
    }
    lengths = np.array([1, 1], dtype=np.int64)
    window = encode_window(pa.table(columns), pa.table({"item": [1, 2]}), lengths, None, Forms())
    made = BatchPacker("user", "item", (), (), Forms()).pack([Part(window, (0, 2), (0, 2), lengths)], Progress())
    for batch in (made, pickle.loads(pickle.dumps(made)), flat_batch(made)):  # noqa: S301 - our own bytes
        told, frame = batch.to_arrow("request"), batch.to_pandas("request")
        for name, column in columns.items():
            first = 1.25 if name == "price" else 2**64 - 1 if name == "unsigned" else column[0].as_py()
            assert told[name].to_pylist() == [first, column[1].as_py()], name
            assert name in ("days", "ids") or frame[name].isna().tolist() == column.is_null().to_pylist(), name
        assert {name: str(frame[name].dtype) for name in ("day", "instant", "local", "lasted")} == {
            "day": "datetime64[ms]", "instant": "datetime64[us, UTC]", "local": "datetime64[us]",
            "lasted": "timedelta64[us]",
        }  # fmt: skip
        assert (frame["unsigned"][0], frame["whole"][0], frame["flag"][0]) == (2**64 - 1, big, True)
        assert frame["ids"].tolist() == [[big, None], []]
        assert told.schema.field("no_bytes").type == pa.binary()
    hashed = encode_window(pa.table(columns), pa.table({"item": [1, 2]}), lengths, None, Forms(strings="hash"))
    hashes = BatchPacker("user", "item", (), (), Forms()).pack([Part(hashed, (0, 2), (0, 2), lengths)], Progress())
    assert hashes.to_arrow("request").schema.field("text").type == pa.int64()
    added = made.with_columns(requests={"day": torch.tensor([7, 8])})
    assert added.to_arrow("request")["day"].to_pylist() == [7, 8]
