"""Encodings, baselines, intervals and the tuner's rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_storage.report.draw.users import from_flat
from dedup_storage.report.estimate.baselines import ALL_LAYOUTS, BaselineLayout, measure_layout
from dedup_storage.report.estimate.intervals import ratio_interval, student_t
from dedup_storage.report.estimate.layouts import KnownTotals, estimate_layouts
from dedup_storage.report.parquet.counting import encode
from dedup_storage.report.parquet.encoding import Encoding, dictionary_pays, write_buffer
from dedup_storage.report.parquet.footers import DataFile
from dedup_storage.report.parquet.page_rule import PageRule
from dedup_storage.report.parquet.pages import read_pages
from dedup_storage.report.tune.dataset import draw_tables
from dedup_storage.report.tune.proposal import iceberg_leaves, propose
from dedup_storage.report.tune.search import Grid, Point, Tuner, choose
from dedup_storage.synth import SynthParams, batches

MIB = 1024**2
PARAMS = SynthParams.preset(
    "bench", users=60, requests_per_user=4, candidates_per_request=6, sequence_length=200, new_events_per_request=10
)


@pytest.fixture(scope="module")
def draw():
    tables = [pa.Table.from_batches([b]) for f in range(PARAMS.files) for b in batches(PARAMS, "log", f)]
    return from_flat(PARAMS.log_schema(), tables)


def test_a_column_in_memory_is_a_real_file(tmp_path: Path) -> None:
    for name, values, on in (
        ("a", pa.array(np.arange(5000) % 17), True),
        ("h", [[i, i + 1] for i in range(5000)], False),
    ):
        table = pa.table({name: values})
        encoding = Encoding(page_bytes=4096, columns={"h": False})
        size, buffer = write_buffer(table, encoding, rows_per_group=2000)
        metadata = pq.read_metadata(pa.BufferReader(buffer))
        assert size == sum(metadata.row_group(g).column(0).total_compressed_size for g in range(3))
        assert metadata.num_row_groups == 3
        assert metadata.row_group(0).column(0).has_dictionary_page is on
        assert pq.read_table(pa.BufferReader(buffer)).equals(table)


def test_columns_are_counted_alone_and_in_any_batches() -> None:
    table = pa.table({"a": np.arange(5000) % 17, "h": [[i, i + 1] for i in range(5000)]})
    encoding = Encoding(page_bytes=4096, columns={"h": False})
    counted = encode(table.to_batches(), table.schema, encoding)
    assert counted.columns == encode(table.to_batches(max_chunksize=37), table.schema, encoding).columns
    # All pages of a column without a dictionary have the same rows here: the file in memory is the same.
    assert counted.columns["h"] == pytest.approx(write_buffer(table.select(["h"]), encoding)[0], rel=0.03)
    assert counted.rows == 5000


def test_pages_end_where_the_java_writer_ends_them() -> None:
    # Seen in a file of Spark's: 2,000 elements of 8 bytes a row, pages of 8 MiB, looks every 16 to 1,000 rows.
    rule = PageRule(["h"], 8 * MIB, 16, 1000)
    ends = rule.advance({"h": np.full(9_400, 16_005.0)})["h"]
    assert ends[0] == 492
    # Iceberg's defaults look only after 100 rows: pages of long lists exceed 1 MiB.
    assert PageRule(["h"], MIB, 100, 10_000).advance({"h": np.full(1_000, 16_005.0)})["h"][:3] == [100, 200, 300]


row_sizes = st.lists(st.integers(0, 3000), min_size=1, max_size=400)


@given(row_sizes, st.lists(st.integers(1, 50), max_size=5), st.integers(1, 20), st.integers(20, 100))
def test_the_page_rule_does_not_see_batches(sizes: list[int], cuts: list[int], least: int, most: int) -> None:
    whole = np.array(sizes, dtype=np.float64)
    at_once = PageRule(["a", "b"], 4096, least, most).advance({"a": whole, "b": whole[::-1]})
    rule, place, ends = PageRule(["a", "b"], 4096, least, most), 0, {"a": [], "b": []}
    for cut in [*cuts, len(sizes)]:
        end = min(len(sizes), place + cut)
        for name, found in rule.advance({"a": whole[place:end], "b": whole[::-1][place:end]}).items():
            ends[name] += [place + e for e in found]
        place = end
    assert ends == at_once


def test_a_dictionary_that_does_not_pay_is_given_up() -> None:
    random = pa.table({"x": np.random.default_rng(0).integers(0, 2**60, 4000)})
    assert not dictionary_pays(random, Encoding())
    assert dictionary_pays(pa.table({"x": np.arange(4000) % 50}), Encoding())
    plain = encode(random.to_batches(), random.schema, Encoding(columns={"x": False}))
    assert encode(random.to_batches(), random.schema, Encoding()).columns == plain.columns


@pytest.mark.parametrize("version", [1, 2])
def test_page_headers_tell_size_count_and_encoding(tmp_path: Path, version: int) -> None:
    table = pa.table(
        {"n": np.random.default_rng(0).integers(0, 2**60, 50_000), "s": [f"value {i % 900}" for i in range(50_000)]}
    )
    deltas = {"column_encoding": {"n": "DELTA_BINARY_PACKED"}} if version == 2 else {}
    pq.write_table(
        table, tmp_path / "a.parquet", data_page_size=64 * 1024, data_page_version=f"{version}.0", use_dictionary=["s"],
        **deltas,
    )  # fmt: skip
    pages = read_pages([DataFile(str(tmp_path / "a.parquet"))])
    assert pages["n"].version == version
    assert dict(pages["n"].encodings) == {"PLAIN" if version == 1 else "DELTA_BINARY_PACKED": pages["n"].pages}
    assert dict(pages["s"].encodings) == {"RLE_DICTIONARY": pages["s"].pages}
    assert (pages["n"].dictionaries, pages["s"].dictionaries) == (0, 1)
    if version == 1:
        # 400 kB of values without a dictionary, in pages of 64 KiB.
        assert pages["n"].pages == 7
        assert pages["n"].encoded_bytes >= 400_000
        assert 60_000 < pages["n"].largest_bytes < 80_000


def test_properties_round_trip() -> None:
    encoding = Encoding(page_bytes=8 * MIB, level=6, page_version=2, columns={"h": False, "x": True})
    properties = encoding.to_properties({"h": ["h.element"], "x": ["x"]})
    assert properties["write.parquet.dict-encoding-enabled.column.h.element"] == "false"
    assert Encoding.from_properties(properties) == encoding
    assert Encoding.from_properties({}) == Encoding()


@pytest.mark.parametrize(
    ("kind", "leaves"),
    [
        (pa.int64(), ["c"]),
        (pa.list_(pa.int64()), ["c.element"]),
        (pa.map_(pa.string(), pa.list_(pa.int8())), ["c.key", "c.value.element"]),
        (pa.struct([("a", pa.int8()), ("b", pa.list_(pa.int8()))]), ["c.a", "c.b.element"]),
    ],
)
def test_leaves_are_named_as_iceberg_names_them(kind: pa.DataType, leaves: list[str]) -> None:
    assert iceberg_leaves(kind, "c") == leaves


def test_layouts_order_as_they_must(draw) -> None:
    measured = {layout: measure_layout(draw, layout) for layout in ALL_LAYOUTS}
    size = {layout: m.of(draw.schema.sequence_columns) for layout, m in measured.items()}
    order = [
        BaselineLayout.FLOOR, BaselineLayout.SPLIT, BaselineLayout.FLAT_SORTED_TUNED, BaselineLayout.FLAT_SHUFFLED,
    ]  # fmt: skip
    assert sorted(order, key=lambda layout: size[layout]) == order
    assert measured[BaselineLayout.FLAT_SORTED].rows == draw.num_impressions
    assert measured[BaselineLayout.SPLIT].rows == draw.num_impressions + draw.num_requests
    split = measured[BaselineLayout.SPLIT].columns
    assert set(split) == {*draw.requests.column_names, *draw.impressions.column_names}


def test_a_whole_log_has_no_interval(draw) -> None:
    known = KnownTotals(draw.num_impressions, None, {}, False)
    for layout, estimate in estimate_layouts(draw, known, layouts=ALL_LAYOUTS).items():
        assert estimate.sequences.exact
        assert estimate.total.value == measure_layout(draw, layout).total_bytes


def test_intervals_hold_the_truth_for_most_samples(draw) -> None:
    from dataclasses import replace

    from dedup_storage.dedup.gather import list_parts
    from dedup_storage.dedup.runs import single_chunk

    layouts = (BaselineLayout.FLAT_SORTED_TUNED, BaselineLayout.SPLIT)
    truth = {layout: measure_layout(draw, layout) for layout in layouts}
    names = draw.schema.sequence_columns
    elements = {n: len(list_parts(single_chunk(draw.requests[n]))[0]) * 6 for n in names}
    known = KnownTotals(draw.num_impressions, None, elements, False)
    held = []
    users = np.unique(draw.users)
    for seed in range(10):
        chosen = np.isin(draw.users, np.random.default_rng(seed).choice(users, 30, replace=False))
        part = replace(draw.part(chosen), share=0.5)
        for layout, e in estimate_layouts(part, known, layouts=layouts, groups=10).items():
            held.append(truth[layout].of(names) in e.sequences)
            assert e.sequences.value == pytest.approx(truth[layout].of(names), rel=0.1)
    # 95 % intervals: 16 or fewer of 20 would have a chance below 2 %.
    assert sum(held) >= 17


def test_ratio_interval_by_hand() -> None:
    x, y = np.array([1.0, 2.0, 3.0]), np.array([2.0, 5.0, 5.0])
    found = ratio_interval(12.0, x, y, 60.0, share=0.1, confidence=0.95, model_error=0.0)
    # r = 2; residuals 0, 1, -1; se = 60/6 * sqrt(0.9 * 3/2 * 2)
    error = 10 * np.sqrt(0.9 * 1.5 * 2)
    assert found.value == pytest.approx(120)
    assert found.high - found.value == pytest.approx(student_t(0.975, 2) * error)


@pytest.mark.parametrize(("degrees", "quantile"), [(4, 2.7764), (10, 2.2281), (19, 2.0930), (100, 1.9840)])
def test_student_t_against_tables(degrees: int, quantile: float) -> None:
    assert student_t(0.975, degrees) == pytest.approx(quantile, rel=0.004)


options = st.lists(st.tuples(st.integers(1, 1000), st.floats(0.001, 10)), min_size=1, max_size=8)


@given(options, st.floats(0, 1))
def test_the_rule_takes_the_smallest_that_decodes_in_time(found: list[tuple[int, float]], tolerance: float) -> None:
    chosen = found[choose(found, tolerance)]
    limit = min(seconds for _, seconds in found) * (1 + tolerance)
    assert chosen[1] <= limit
    assert all(size >= chosen[0] for size, seconds in found if seconds <= limit)


def test_the_tuner_finds_what_the_grid_finds(draw) -> None:
    grid = Grid(page_bytes=(4096, 64 * 1024, 8 * MIB), row_group_bytes=(128 * MIB,), level=(1, 3), page_version=(1, 2))
    start = Encoding(page_bytes=4096, columns={"hist_item_ids": False})
    # Without a limit on decode time the choice depends on bytes alone, which are the same on every machine.
    tuner = Tuner(draw_tables(draw, "requests", 120), start, grid=grid, tolerance=1e9, rounds=1)
    found = tuner.search()
    visited = len(tuner.trials)
    best = min(t.stored_bytes for t in (tuner.exhaustive(), *tuner.trials.values()))
    assert visited < len(tuner.trials)
    assert found.stored_bytes <= 1.05 * best
    assert found.point.page_bytes > 4096
    proposal = propose("requests", tuner, found, properties={})
    assert proposal.stored_bytes < proposal.start_bytes
    assert proposal.properties["write.parquet.page-size-bytes"] == str(found.point.page_bytes)
    assert [c.column for c in proposal.columns if c.column == "hist_item_ids"]


def test_the_tuner_leaves_alone_what_is_good() -> None:
    table = pa.table({"a": np.arange(2000)})
    grid = Grid(page_bytes=(MIB, 8 * MIB), row_group_bytes=(128 * MIB,), level=(3,), page_version=(1,))
    tuner = Tuner([table], Encoding(columns={"a": False}), grid=grid, tolerance=1e9, rounds=1)
    assert tuner.search().point == Point(MIB, 128 * MIB, 3, 1)
    assert not propose("t", tuner, tuner.best()).properties
