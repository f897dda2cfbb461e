"""Vocabularies of ids: exact, stored once, the same in every batch; 0 is never a real value."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dedup_storage import Lake as Connection
from dedup_storage.errors import ConfigError, SchemaError, StateMismatchError, UnknownColumnError, UsageError
from dedup_storage.layout import Layout
from dedup_storage.reader import Column, DedupDataset, IdVocabulary, open_vocabulary, vocabulary
from tests.reader.lake import Lake, Log, make_log


def of(values: list[Any], min_count: int = 1) -> IdVocabulary:
    counted = Counter(v for v in values if v is not None)
    type_ = pa.int64() if all(isinstance(v, int) for v in counted) else pa.large_string()
    return IdVocabulary.of_counts(pa.array(counted, type_), pa.array(counted.values(), pa.int64()), min_count, {})


def slow_ids(values: list[Any], queries: list[Any], min_count: int) -> list[int]:
    """A dictionary in the order of falling counts, then of values (texts by their bytes)."""
    counted = Counter(v for v in values if v is not None)
    kept = [v for v, n in counted.items() if n >= min_count]
    kept.sort(key=lambda v: (-counted[v], v.encode() if isinstance(v, str) else v))
    known = {v: i + 1 for i, v in enumerate(kept)}
    return [known.get(q, 0) for q in queries]


INTEGERS = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)


@pytest.mark.parametrize("values", [INTEGERS, TEXTS])
@settings(max_examples=60)
@given(data=st.data(), min_count=st.integers(1, 2))
def test_ids_equal_a_dictionary(values: st.SearchStrategy[Any], data: st.DataObject, min_count: int) -> None:
    seen = data.draw(st.lists(values, max_size=12))
    queries = data.draw(st.lists(st.one_of(st.none(), values, *([st.sampled_from(seen)] if seen else [])), max_size=12))
    built = of([*seen, *seen[:3]], min_count)
    type_ = built.values.type if seen else pa.int64() if values is INTEGERS else pa.string()
    if not seen and values is TEXTS:
        built = IdVocabulary(pa.array([], pa.large_string()), np.array([], np.int64))
    found = built.ids(pa.array(queries, type_))
    assert found.dtype == np.int32
    assert found.tolist() == slow_ids([*seen, *seen[:3]], queries, min_count)
    assert built.decode(found).to_pylist() == [q if i else None for q, i in zip(queries, found, strict=True)]


def test_texts_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "hash_strings", lambda texts: np.arange(len(texts), dtype=np.int64) % 1)
    built = of(["a", "b", "b", "c"])
    assert built.ids(pa.array(["c", "zz", None, "b", "a"])).tolist() == [3, 0, 0, 1, 2]


@pytest.mark.parametrize("type_", [pa.int8(), pa.int32(), pa.int64()])
def test_narrow_numbers_and_lists(type_: pa.DataType) -> None:
    built = of([5, 5, 7])
    assert built.ids(pa.array([7, None, 5, 6], type_)).tolist() == [2, 0, 1, 0]
    assert built.ids(pa.array([[7, 5], [], [None]], pa.list_(type_))).tolist() == [2, 1, 0]
    assert len(built) == 3
    with pytest.raises(SchemaError, match="holds other values; expected int64; got large_string"):
        built.ids(pa.array(["5"]))
    with pytest.raises(SchemaError, match="whole numbers or text; got double"):
        built.ids(pa.array([5.0]))


def test_the_digest_depends_on_values_and_their_order() -> None:
    first, second = of(["b", "a", "b"]), of(["b", "a", "a"])
    assert of(["a", "b", "b"]).digest == first.digest == pickle.loads(pickle.dumps(first)).digest  # noqa: S301
    assert second.digest != first.digest


# -- of a dataset -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def log(lake: Lake) -> Log:
    made = make_log(users=10)
    items = pa.array([i % 7 + i % 3 for i in range(made.impressions.num_rows)], pa.int64())
    histories = [None if i % 9 == 5 else [j % 11 for j in range(i % 4)] for i in range(made.requests.num_rows)]
    made.impressions = made.impressions.set_column(4, "item_id", items)
    made.requests = made.requests.set_column(6, "history", pa.array(histories, pa.list_(pa.int64())))
    for layout in Layout:
        lake.standing(f"vocabulary_{layout}", made, layout=layout, files=2)
    return made


def rows_by_request(log: Log, column: str, table: str) -> dict[int, list[Any]]:
    rows: dict[int, list[Any]] = {}
    for row in getattr(log, table).to_pylist():
        rows.setdefault(row["request_id"], []).append(row[column])
    return rows


@pytest.mark.long
@pytest.mark.parametrize(("layout", "workers"), [(Layout.SPLIT, 0), (Layout.FLAT, 0), (Layout.SPLIT, 2)])
def test_batches_hold_the_ids_of_one_vocabulary(lake: Lake, log: Log, layout: Layout, workers: int) -> None:
    name = f"vocabulary_{layout}"
    items = open_vocabulary(name, ["item_id", "history"], lake.settings, min_count=9)
    countries = open_vocabulary(name, "country", lake.settings)
    seen = [*log.impressions["item_id"].to_pylist(), *log.requests["history"].combine_chunks().flatten().to_pylist()]
    candidates, histories = (
        rows_by_request(log, "item_id", "impressions"),
        rows_by_request(log, "history", "requests"),
    )
    places = rows_by_request(log, "country", "requests")
    read = {"columns": ["item_id", "history", "country"], "batch_size": 20, "splits": 4}
    dataset = DedupDataset(
        name, lake.settings, vocabularies={"item_id": items, "history": items, "country": countries}, **read
    )
    context = "spawn" if workers else None
    delivered = 0
    for batch in DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=context):
        requests = batch["request_id"].values.tolist()
        wanted = [item for request in requests for item in candidates[request]]
        assert batch["item_id"].values.tolist() == slow_ids(seen, wanted, 9)
        assert batch.item_ids().tolist() == batch["item_id"].values.tolist()
        events = [event for request in requests for event in histories[request][0] or ()]
        assert batch["history"].values.tolist() == slow_ids(seen, events, 9)
        assert batch["country"].values.tolist() == slow_ids(
            log.requests["country"].to_pylist(), [places[request][0] for request in requests], 1
        )
        delivered += len(requests)
    assert delivered == log.requests.num_rows
    assert 0 < slow_ids(seen, seen, 9).count(0) < len(seen)


def test_it_is_built_once_and_stored_beside_the_dataset(lake: Lake, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "vocabulary_split"
    built = Connection(lake.settings).vocabulary(name, "category", min_count=2)
    stored = list(
        Path(lake.table(name, "requests").location().removeprefix("file://")).glob("_vocabularies/category/*")
    )
    assert [file.suffix for file in stored] == [".arrow"]
    monkeypatch.setattr("dedup_storage.reader.open.vocabulary._build", None)
    again = open_vocabulary(name, "category", lake.settings, min_count=2, version=1)
    assert again.values.to_pylist() == built.values.to_pylist()
    assert again.counts.tolist() == built.counts.tolist() == sorted(built.counts.tolist(), reverse=True)
    assert repr(again) == (
        "IdVocabulary(category of vocabulary_split, version 1, seen 2 times or more: "
        f"{len(set(log.impressions['category'].to_pylist()))} values)"
    )


def test_it_moves_with_a_renamed_dataset_and_goes_with_a_dropped_one(lake: Lake, name: str) -> None:
    lake.write(name, make_log(users=3))
    connection = Connection(lake.settings)
    built = connection.vocabulary(name, "item_id")
    folder = Path(lake.table(name, "requests").location().removeprefix("file://")) / "_vocabularies"
    connection.rename(name, f"{name}_new")
    assert connection.vocabulary(f"{name}_new", "item_id").facts == built.facts  # the stored one
    assert folder.is_dir()
    connection.drop(f"{name}_new")
    assert not folder.exists()


def test_chosen_requests_count_alone(lake: Lake, log: Log) -> None:
    users = [0, 1, 2]
    some = open_vocabulary("vocabulary_split", "item_id", lake.settings, filters={"users": users}, store=False)
    rows = [r["item_id"] for r in log.impressions.to_pylist() if r["user_id"] in users]
    assert dict(zip(some.values.to_pylist(), some.counts.tolist(), strict=True)) == Counter(rows)


def test_what_cannot_be_is_refused_by_name(lake: Lake, log: Log) -> None:
    name = "vocabulary_split"
    items = open_vocabulary(name, "item_id", lake.settings)
    for key in ("user_id", "request_id"):
        with pytest.raises(ConfigError, match=f"the column {key} is a key of users or requests"):
            open_vocabulary(name, key, lake.settings)
        with pytest.raises(ConfigError, match=f"the column {key} is a key of users or requests"):
            DedupDataset(name, lake.settings, vocabularies={key: items})
    with pytest.raises(SchemaError, match="whole numbers or text; got double"):
        open_vocabulary(name, "price", lake.settings)
    with pytest.raises(SchemaError, match="item_id and category cannot share a vocabulary"):
        open_vocabulary(name, ["item_id", "category"], lake.settings)
    with pytest.raises(SchemaError, match="the column category does not fit its vocabulary; expected int64"):
        DedupDataset(name, lake.settings, vocabularies={"category": items})
    with pytest.raises(UnknownColumnError, match="the column history has a vocabulary and is not read"):
        DedupDataset(name, lake.settings, columns=["item_id"], vocabularies={"history": items})
    with pytest.raises(ConfigError, match="min_count of 1 or more"):
        open_vocabulary(name, "item_id", lake.settings, min_count=0)


def test_a_state_goes_on_with_its_own_vocabulary_alone(lake: Lake, log: Log) -> None:
    name = "vocabulary_split"
    every, frequent = (open_vocabulary(name, "item_id", lake.settings, min_count=n, store=False) for n in (1, 9))
    state = DedupDataset(name, lake.settings, vocabularies={"item_id": every}).state_dict()
    with pytest.raises(StateMismatchError, match="the state belongs to other vocabularies"):
        DedupDataset(name, lake.settings, vocabularies={"item_id": frequent}).load_state_dict(state)
    with pytest.raises(StateMismatchError, match="the state belongs to other vocabularies"):
        DedupDataset(name, lake.settings).load_state_dict(state)
    DedupDataset(name, lake.settings, vocabularies={"item_id": every}).load_state_dict(state)


def test_buckets_are_a_stable_hash_and_0_is_null(lake: Lake, log: Log) -> None:
    for strings in ("dictionary", "hash"):
        found: dict[Any, set[int]] = {}
        for batch in DedupDataset("vocabulary_split", lake.settings, batch_size=20, strings=strings):
            for value, row in zip(batch["country"].decode(), batch["country"].buckets(50).tolist(), strict=True):
                found.setdefault(value if strings == "dictionary" else None if value is None else "?", set()).add(row)
        assert found[None] == {0}
        rows = set().union(*(v for k, v in found.items() if k is not None))
        assert rows == {13, 18, 33}  # models are trained on them


def test_values_from_outside_have_the_buckets_of_a_batch(lake: Lake, log: Log) -> None:
    batch = next(iter(DedupDataset("vocabulary_split", lake.settings, batch_size=20)))
    for name in ("country", "item_id"):
        assert Column.of(batch[name].decode()).buckets(50).tolist() == batch[name].buckets(50).tolist()
    assert Column.of([None, 0, 0]).buckets(50).tolist() == [0, *Column.of([0, 0]).buckets(50).tolist()]
    assert Column.of(pa.array([2**64 - 1], pa.uint64())).ids().tolist() == [-1]
    assert len(Column.of([]).buckets(50)) == 0
    with pytest.raises(UsageError, match="ids are whole numbers or text; got double"):
        Column.of([1.5])
