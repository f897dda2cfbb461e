"""Several feature groups: keys that are stored alike are matched once, others one by one, and no value moves."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dedup_storage.errors import UnknownColumnError
from dedup_storage.lake.groups import FeatureColumn, FeatureGroup, FeatureSource, SourceKind
from dedup_storage.layout import DEFINITION, PROPERTY_PREFIX, ROLE_PROPERTY, Layout
from dedup_storage.reader import DedupDataset
from dedup_storage.reader.decode.files import DataFile, TableRef
from dedup_storage.reader.open import features
from dedup_storage.reader.open.twins import KeyDigests
from dedup_storage.schema import Grain
from tests.reader.lake import Lake, make_log


@pytest.mark.parametrize("layout", [Layout.SPLIT, Layout.FLAT])
@pytest.mark.parametrize("grain", ["request", "impression"])
def test_groups_of_equal_keys_are_matched_once(
    lake: Lake, name: str, layout: Layout, grain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make_log()
    spec = lake.write(name, log, layout=layout, files=2)
    base = log.requests if grain == "request" else log.impressions
    keys = ["user_id", "request_id", *(["position"] if grain == "impression" else [])]
    numbers = pa.array(range(base.num_rows), pa.int64())
    some = [i % 3 > 0 for i in range(base.num_rows)]
    values: dict[str, dict[Any, Any]] = {}
    for group, files, rows, column in (
        ("a", 1, None, numbers),
        ("b", 1, None, pa.array([f"b{i}" for i in range(base.num_rows)])),
        ("c", 1, some, numbers),
        ("d", 2, None, numbers),
        ("e", 2, None, pa.array([[i] * (i % 3) for i in range(base.num_rows)], pa.list_(pa.int64()))),
        ("f", 1, some, numbers),
    ):
        data = base.select([*keys, "event_date"]).append_column(group, column)
        data = data if rows is None else data.filter(pa.array(rows))
        table = lake.create(f"{name}.fg_{group}", data.schema, spec, {ROLE_PROPERTY: "features"})
        lake.append(table, data, keys, files=files)
        values[group] = {tuple(row[k] for k in keys): row[group] for row in data.to_pylist()}
    lake.tag(name, 1, [f"fg_{group}" for group in values])
    matched: list[str] = []
    index: Callable[..., Any] = features._index

    def counted(feature: Any, *arguments: Any) -> Any:
        matched.append(feature.columns[0])
        return index(feature, *arguments)

    monkeypatch.setattr(features, "_index", counted)

    def check(**options: Any) -> None:
        seen = 0
        for batch in DedupDataset(name, lake.settings, batch_size=15, shuffle=True, threads=1, **options):
            decoded = {c: batch[c].decode() for c in (*keys, *values)}
            owners = range(batch.num_requests) if grain == "request" else batch.inverse_indices.tolist()
            for row, owner in enumerate(owners):
                key = (decoded["user_id"][owner], decoded["request_id"][owner])
                key = (*key, decoded["position"][row]) if grain == "impression" else key
                for group, found in values.items():
                    assert decoded[group][row] == found.get(key), (group, key)
                seen += 1
        assert seen == base.num_rows

    check()
    # Of requests each segment lies in one file of the two.
    assert set(matched) == ({"a", "c"} if grain == "request" else {"a", "c", "d"})
    if layout is Layout.SPLIT:
        check(across_dates=True)


def test_bundled_groups_are_read_from_one_table(lake: Lake, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log = make_log()
    spec = lake.write(name, log)
    base, keys = log.impressions, ["user_id", "request_id", "position"]
    numbers = pa.array(range(base.num_rows), pa.int64())
    data = base.select([*keys, "event_date"])
    for group in ("b", "a"):
        definition = FeatureGroup(
            name=group,
            table=f"fg_{group}",
            grain=Grain.IMPRESSION,
            columns=(FeatureColumn(name=f"{group}_1", type="bigint"),),
            source=FeatureSource(kind=SourceKind.FRAME),
            bundled="fb_both",
        )
        own = data.append_column(f"{group}_1", numbers).slice(0, 0)
        properties = {ROLE_PROPERTY: "features", PROPERTY_PREFIX + DEFINITION: definition.to_json()}
        lake.create(f"{name}.fg_{group}", own.schema, spec, properties).append(own)
    # The column of a group that was dropped lies there still.
    for column in ("gone", "b_1", "a_1"):
        data = data.append_column(column, pc.add(numbers, len(column) if column == "gone" else ord(column[0])))
    lake.append(lake.create(f"{name}.fb_both", data.schema, spec, {ROLE_PROPERTY: "features"}), data, keys)
    lake.tag(name, 1, ["fg_a", "fg_b", "fb_both"])
    values = {tuple(row[k] for k in keys): row for row in data.to_pylist()}
    matched: list[tuple[str, ...]] = []
    index: Callable[..., Any] = features._index

    def counted(feature: Any, *arguments: Any) -> Any:
        matched.append(feature.columns)
        return index(feature, *arguments)

    monkeypatch.setattr(features, "_index", counted)
    seen = 0
    for batch in DedupDataset(name, lake.settings, batch_size=15, threads=1):
        assert [c for c in batch if c in data.column_names[-3:]] == ["a_1", "b_1"]
        decoded = {c: batch[c].decode() for c in (*keys, "a_1", "b_1")}
        for row, owner in enumerate(batch.inverse_indices.tolist()):
            found = values[decoded["user_id"][owner], decoded["request_id"][owner], decoded["position"][row]]
            assert (decoded["a_1"][row], decoded["b_1"][row]) == (found["a_1"], found["b_1"])
            seen += 1
    assert seen == base.num_rows
    assert set(matched) == {("a_1", "b_1")}
    with pytest.raises(UnknownColumnError, match="gone"):
        DedupDataset(name, lake.settings, columns=["gone"])


def _digest(table: pa.Table, columns: Sequence[str], path: str, **options: Any) -> bytes | None:
    pq.write_table(table, path, **options)
    ref = TableRef("t", path.rpartition("/")[0], {}, {c: (-1, table.schema.field(c).type) for c in table.column_names})
    return KeyDigests().of(ref, DataFile("t", path, table.num_rows), columns)


def test_stored_keys_are_alike_where_every_row_is(tmp_path: Any) -> None:
    path = f"{tmp_path}/file.parquet"
    keys = pa.table({"u": [1, 1, 2, 2], "r": ["a", "b", "c", "d"], "p": [0, 1, 0, 1]})
    alike = {_digest(keys.append_column(n, c), ["u", "r", "p"], path) for n, c in (("x", keys["u"]), ("y", keys["r"]))}
    (digest,) = alike
    assert digest is not None
    other_order = keys.take([1, 0, 2, 3])
    null = keys.set_column(1, "r", pa.array(["a", "b", None, "d"]))
    wide = keys.set_column(0, "u", keys["u"].cast(pa.int32()))
    for other in (other_order, keys.slice(0, 3), null, wide, pa.concat_tables([keys, keys])):
        assert _digest(other, ["u", "r", "p"], path) != digest
    assert _digest(keys, ["r", "u", "p"], path) != digest
    assert _digest(keys, ["u", "r"], path) != digest
    # Cut or packed otherwise, equal keys are not known for it: they are matched.
    assert _digest(keys, ["u", "r", "p"], path, row_group_size=2) != digest
    assert _digest(keys, ["u", "r", "p"], path, compression="zstd") != digest


def test_a_file_with_deleted_rows_or_without_a_key_says_nothing(tmp_path: Any) -> None:
    path, keys = f"{tmp_path}/file.parquet", pa.table({"u": [1, 2]})
    pq.write_table(keys, path)
    ref = TableRef("t", str(tmp_path), {}, {"u": (-1, pa.int64()), "r": (-1, pa.int64())})
    assert KeyDigests().of(ref, DataFile("t", path, 2), ["u", "r"]) is None
    assert KeyDigests().of(ref, DataFile("t", path, 2, deleted=pa.array([0]).to_numpy()), ["u"]) is None
    assert KeyDigests().of(ref, DataFile("t", path, 2), ["u"]) is not None


def test_a_group_that_lacks_rows_is_told(lake: Lake, name: str) -> None:
    """Its columns are null there, and a model that looks at values alone would learn from zeros."""
    log = make_log()
    spec = lake.write(name, log)
    grains = {"whole": Grain.REQUEST, "late": Grain.REQUEST, "seen": Grain.IMPRESSION, "sparse": Grain.REQUEST}
    for group, grain in grains.items():
        base = log.requests if grain is Grain.REQUEST else log.impressions
        keys = ["user_id", "request_id", *(["position"] if grain is Grain.IMPRESSION else [])]
        definition = FeatureGroup(
            name=group,
            table=f"fg_{group}",
            grain=grain,
            columns=(FeatureColumn(name=f"{group}_1", type="bigint"),),
            source=FeatureSource(kind=SourceKind.FRAME),
            missing="null" if group == "sparse" else "refuse",
        )
        data = base.select([*keys, "event_date"]).append_column(f"{group}_1", pa.array(range(base.num_rows)))
        data = data if group == "whole" else data.slice(0, base.num_rows - 7)
        properties = {ROLE_PROPERTY: "features", PROPERTY_PREFIX + DEFINITION: definition.to_json()}
        lake.append(lake.create(f"{name}.fg_{group}", data.schema, spec, properties), data, keys)
    lake.tag(name, 1, [f"fg_{group}" for group in grains])

    def told(**options: Any) -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            DedupDataset(name, lake.settings, **options)
        return [str(warning.message) for warning in found if issubclass(warning.category, UserWarning)]

    requests, impressions = log.requests.num_rows, log.impressions.num_rows
    late = f"the feature group late has values for {requests - 7} of {requests} requests of {name}, version 1"
    seen = f"the feature group seen has values for {impressions - 7} of {impressions} impressions of {name}, version 1"
    assert [text.partition(", and null")[0] for text in told()] == [late, seen]
    assert f"dedup-storage features refresh seen --dataset {name};" in told(columns=["seen_1"])[0]
    assert told(columns=["price", "whole_1", "sparse_1"]) == []
    assert told(filters={"start": "2022-01-08"}) == []
