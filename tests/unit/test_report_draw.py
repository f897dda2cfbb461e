"""Samples of whole users, fingerprints and the floor, against slow forms."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_storage.dedup.hashing import combine, count_distinct, hash_column
from dedup_storage.errors import InputError, SchemaError, UsageError
from dedup_storage.layout import DatasetSpec, Layout
from dedup_storage.report.draw.dataset import draw_dataset
from dedup_storage.report.draw.repetition import repetition
from dedup_storage.report.draw.select import Drawn, choose_users, draw_flat
from dedup_storage.report.draw.users import PLACE, LogDraw, from_flat
from dedup_storage.report.estimate.curves import with_candidates, with_newest
from dedup_storage.report.estimate.floor import events_once, new_events
from dedup_storage.report.measure import measure_dataset
from dedup_storage.report.parquet.dataset_files import folder_files
from dedup_storage.report.parquet.footers import DataFile
from dedup_storage.report.parquet.tables import DatasetFiles, TableFiles, read_totals
from dedup_storage.schema import DateGrain, Grain, LogSchema

SCHEMA = LogSchema.from_dict(
    {
        "user": "user_id",
        "request": "request_id",
        "item": "item_id",
        "event_time": "ts",
        "sequences": [{"column": "items", "group": "h"}, {"column": "times", "group": "h"}],
        "labels": "label",
    }
)


def log(users: int = 6, requests: int = 4, candidates: int = 3, length: int = 5, new: int = 2) -> pa.Table:
    """A flat log in order of arrival: time first, so users interleave; histories slide by ``new`` events."""
    rows: list[dict[str, Any]] = []
    for r in range(requests):
        for u in range(users):
            history = list(range(1000 * u + new * r, 1000 * u + new * r + length))
            for c in range(candidates):
                rows.append(
                    {
                        "user_id": f"u{u}", "request_id": 100 * r + u, "ts": 10 * r + u, "country": f"c{u % 2}",
                        "items": history, "times": [h * 7 for h in history], "item_id": (7 * r + 13 * u + c) % 11,
                        "label": c % 2,
                    }
                )  # fmt: skip
    return pa.Table.from_pylist(rows)


def rows_of(table: pa.Table, columns: list[str]) -> list[str]:
    return sorted(str([row[c] for c in columns]) for row in table.to_pylist())


def flat_table(draw: LogDraw, order: np.ndarray) -> pa.Table:
    return pa.Table.from_batches(list(draw.flat(order)), draw.flat_schema())


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 6), st.integers(1, 7))
def test_a_sample_gives_the_log_back_row_for_row(users: int, requests: int, cands: int, length: int, step: int) -> None:
    table = log(users, requests, cands, length)
    batches = [table.slice(i, step) for i in range(0, table.num_rows, step)]
    draw = from_flat(SCHEMA, batches)
    assert (draw.num_requests, draw.num_impressions) == (users * requests, table.num_rows)
    assert draw.num_users == users
    # Undeclared: the country is constant inside every request.
    assert draw.schema.declared_grains()["country"] is Grain.REQUEST
    arrived = flat_table(draw, draw.arrival)
    assert arrived.select(table.column_names).to_pylist() == table.to_pylist()
    sorted_rows = flat_table(draw, np.arange(draw.num_impressions))
    keys = [(r["user_id"], r["request_id"]) for r in sorted_rows.to_pylist()]
    assert keys == sorted(keys)
    assert rows_of(sorted_rows, table.column_names) == rows_of(table, table.column_names)


def test_groups_share_out_whole_users() -> None:
    draw = from_flat(SCHEMA, [log(users=12)])
    groups = draw.groups(3)
    seen = [set(g.requests["user_id"].to_pylist()) for g in groups]
    assert set().union(*seen) == {f"u{i}" for i in range(12)}
    assert sum(len(s) for s in seen) == 12
    columns = log().column_names
    together = [row for g in groups for row in rows_of(flat_table(g, g.arrival), columns)]
    assert sorted(together) == rows_of(log(users=12), columns)


def test_cutting_histories_and_candidates() -> None:
    draw = from_flat(SCHEMA, [log(length=5, candidates=3)])
    newest = with_newest(draw, 2)
    whole = draw.requests["items"].to_pylist()
    assert newest.requests["items"].to_pylist() == [x[-2:] for x in whole]
    fewer = with_candidates(draw, 2)
    assert fewer.num_impressions == 2 * draw.num_requests
    assert sorted(fewer.arrival.tolist()) == list(range(fewer.num_impressions))


def slow_new(before: list[int] | None, here: list[int]) -> int:
    for k in range(len(here) + 1):
        kept = len(here) - k
        if before is not None and kept <= len(before) and here[:kept] == before[len(before) - kept :]:
            return k
    return len(here)


histories = st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 2), max_size=6)), min_size=1, max_size=8)


@given(histories)
def test_new_events_is_the_shortest_continuation(lists: list[tuple[bool, list[int]]]) -> None:
    values = [x for _, x in lists]
    follows = np.array([False, *(f for f, _ in lists[1:])])
    flat = pa.array([e for x in values for e in x], pa.int64())
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in values])]).astype(np.int64)
    expected = [slow_new(values[i - 1] if follows[i] else None, x) for i, x in enumerate(values)]
    assert new_events(hash_column(flat), offsets, follows).tolist() == expected


def test_the_floor_holds_every_event_of_every_user_once() -> None:
    draw = from_flat(SCHEMA, [log(users=3, requests=4, length=5, new=2)])
    events = events_once(draw)
    got = sorted(events["items"].to_pylist())
    assert got == sorted(list(range(1000 * u, 1000 * u + 5 + 2 * 3)) for u in range(3))
    assert sorted(events["times"].to_pylist()) == sorted([7 * e for e in x] for x in got)


def test_dedup_factors_against_counting() -> None:
    table = log(users=3, requests=2, candidates=4)
    factors = repetition(from_flat(SCHEMA, [table]))
    rows = sorted(table.to_pylist(), key=lambda r: (r["user_id"], r["request_id"]))
    for name in ("items", "country", "user_id"):
        values = [str(r[name]) for r in rows]
        runs = 1 + sum(a != b for a, b in pairwise(values))
        assert factors[name].rows_per_run == pytest.approx(len(rows) / runs)
        in_request = len({(r["request_id"], str(r[name])) for r in rows})
        assert factors[name].rows_per_request_value == pytest.approx(len(rows) / in_request)
        in_user = len({(r["user_id"], str(r[name])) for r in rows})
        assert factors[name].rows_per_user_value == pytest.approx(len(rows) / in_user)
    in_user = len({(r["user_id"], r["item_id"]) for r in rows})
    assert factors["item_id"].rows_per_user_value == pytest.approx(len(rows) / in_user)


scalar = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
value_lists = st.one_of(
    st.lists(scalar).map(lambda v: pa.array(v, pa.int64())),
    st.lists(st.one_of(st.none(), st.text(max_size=5))).map(lambda v: pa.array(v, pa.string())),
    st.lists(st.one_of(st.none(), st.booleans())).map(lambda v: pa.array(v, pa.bool_())),
    st.lists(st.one_of(st.none(), st.lists(scalar, max_size=4))).map(lambda v: pa.array(v, pa.list_(pa.int64()))),
    st.lists(st.lists(st.text(max_size=3), max_size=3)).map(lambda v: pa.array(v, pa.list_(pa.string()))),
)


@given(value_lists, st.integers(0, 3))
def test_fingerprints_differ_exactly_where_values_do(array: pa.Array, skip: int) -> None:
    array = array.slice(min(skip, len(array)))
    hashes = hash_column(array)
    values = [str(v) if v is not None else None for v in array.to_pylist()]
    for i in range(len(values)):
        for j in range(i):
            assert (hashes[i] == hashes[j]) == (values[i] == values[j])
    assert count_distinct(hashes) == len(set(values))


def test_fingerprints_do_not_depend_on_width_or_place() -> None:
    wide = hash_column(pa.array([5, 7], pa.int64()))
    assert wide.tolist() == hash_column(pa.array([9, 5, 7], pa.int32()).slice(1)).tolist()
    ab, ba = combine([wide, wide[::-1]]), combine([wide[::-1], wide])
    assert not np.any(ab == ba)


@given(st.integers(0, 2**32), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_smaller_shares_are_parts_of_larger_ones(seed: int, first: float, second: float) -> None:
    users = hash_column(pa.array(np.random.default_rng(seed).integers(0, 2**62, 200)))
    small, large = choose_users(users, min(first, second)), choose_users(users, max(first, second))
    assert not np.any(small & ~large)
    assert choose_users(users, 1.0).all()


def test_shares_are_fair() -> None:
    users = hash_column(pa.array(np.arange(20_000)))
    # Six standard deviations of a binomial count.
    assert abs(choose_users(users, 0.3).sum() - 6_000) < 6 * np.sqrt(20_000 * 0.3 * 0.7)


def test_a_sample_of_files_is_the_rows_of_its_users(tmp_path: Path) -> None:
    table = log(users=40, requests=3)
    for i in range(3):
        pq.write_table(table.slice(i * 120, 120), tmp_path / f"{i}.parquet", row_group_size=50)
    files = folder_files(str(tmp_path))
    draw = draw_flat(files, read_totals(files), SCHEMA, share=0.4)
    chosen = set(draw.requests["user_id"].to_pylist())
    assert 0 < len(chosen) < 40
    expected = pa.Table.from_pylist([r for r in table.to_pylist() if r["user_id"] in chosen], schema=table.schema)
    assert flat_table(draw, draw.arrival).select(table.column_names).to_pylist() == expected.to_pylist()


class Elsewhere:
    """Draws the first users' rows into a folder, in any order, each with its place: what an engine does."""

    def __init__(self, folder: Path, users: list[str]) -> None:
        self.folder, self.users = folder, users

    def rows_per_request(self, table: TableFiles, schema: LogSchema) -> float:
        return 3.0

    def __call__(self, table: TableFiles, user: str, share: float, columns: list[str]) -> Drawn:
        pieces = []
        for number, file in enumerate(table.files):
            rows = pq.read_table(file.path)
            place = pa.array(np.full(rows.num_rows, 900 - number)), pa.array(np.arange(rows.num_rows))
            for name, values in zip(PLACE, place, strict=True):
                rows = rows.append_column(name, values)
            pieces.append(rows.filter(pc.is_in(rows[user], pa.array(self.users))))
        together = pa.concat_tables(pieces)
        mixed = together.take(np.random.default_rng(0).permutation(together.num_rows))
        for i in range(2):
            pq.write_table(mixed.slice(i * 7, 7 if i == 0 else None), self.folder / f"{i}.parquet")
        return Drawn(folder_files(str(self.folder)), {900 - n: n for n in range(len(table.files))})


@pytest.mark.parametrize("layout", [Layout.SPLIT, Layout.FLAT])
def test_a_dataset_whose_files_differ_is_drawn_and_measured(tmp_path: Path, layout: Layout) -> None:
    flat = log(users=12).append_column("position", pa.array([0, 1, 2] * 48, pa.int32()))
    later = flat.set_column(1, "request_id", pc.add(flat["request_id"], 2**40))
    # A column came later, another was widened; the new one has the name of a part of segments.
    before = flat.drop_columns(["country"]).set_column(1, "request_id", flat["request_id"].cast(pa.int32()))
    later = later.append_column("bucket", later["country"])
    described = dict.fromkeys(("country", "bucket", "ts"), "request")
    schema = LogSchema.from_dict(
        {"user": "user_id", "request": "request_id", "item": "item_id", "position": "position", "columns": described}
        | {"sequences": [{"column": c, "group": "h"} for c in ("items", "times")], "labels": "label"}
    )
    lists = dict.fromkeys(("items", "times"), "array<bigint>")
    texts = dict.fromkeys(("user_id", "country", "bucket"), "string")
    source = dict.fromkeys(later.column_names, "bigint") | texts | lists
    spec = DatasetSpec.build("d", schema, source, layout=layout, date_grain=DateGrain.NONE, buckets=2)
    tables = []
    for table in spec.tables:
        files = []
        for number, rows in enumerate((before, later)):
            rows = rows.select([c for c in table.columns if c in rows.column_names])
            if table.role.value == "requests":
                rows = rows.take(pa.array(range(0, rows.num_rows, 3)))
            path = tmp_path / f"{table.name}-{number}.parquet"
            pq.write_table(rows, path)
            files.append(DataFile(str(path), partition={"bucket": str(number)}))
        tables.append(TableFiles(table.name, table.role.value, tuple(files)))
    dataset = DatasetFiles(spec, 1, tuple(tables))
    draw = draw_dataset(dataset, {t.name: read_totals(t) for t in tables})
    expected = pa.concat_tables([before, later], promote_options="permissive")
    columns = ["user_id", "request_id", "country", "bucket", "items", "item_id", "label"]
    assert rows_of(flat_table(draw, draw.arrival), columns) == rows_of(expected, columns)
    report = measure_dataset(dataset, with_curves=False)
    assert report.dedup_factor == 3
    assert {c.column for c in report.columns} == set(expected.column_names)


def test_hidden_rows_and_dates_of_another_name(tmp_path: Path) -> None:
    flat = log(users=2, requests=2).append_column("position", pa.array([0, 1, 2] * 4, pa.int32()))
    schema = LogSchema.from_dict(
        {"user": "user_id", "request": "request_id", "item": "item_id", "position": "position", "event_time": "ts"}
        | {"sequences": [{"column": "items"}], "labels": "label", "columns": {"event_date": "impression"}}
    )
    source = {"user_id": "string", "request_id": "bigint", "ts": "timestamp", "items": "array<bigint>"}
    source |= dict.fromkeys(("item_id", "label", "position"), "bigint") | {"event_date": "string"}
    spec = DatasetSpec.build("d", schema, source, layout=Layout.SPLIT, date_grain=DateGrain.DAY, buckets=1)
    assert spec.event_date_column == "_event_date"
    tables = []
    for name, rows, hidden in (("requests", flat.take(pa.array([0, 3, 6, 9])), 0), ("impressions", flat, 4)):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(rows, path)
        days = (DataFile(str(path), partition={"_event_date": "2024-01-31", "bucket": "0"}),)
        tables.append(TableFiles(name, name, days, deleted_rows=hidden))
    report = measure_dataset(DatasetFiles(spec, 1, tuple(tables)), baselines=())
    assert report.dedup_factor == 8 / 4
    assert [(part.value, part.rows) for part in report.dates] == [("2024-01-31", 16)]


def test_rows_drawn_elsewhere_stand_in_order_of_arrival(tmp_path: Path) -> None:
    table = log(users=8, requests=3)
    for place in ("log", "drawn"):
        (tmp_path / place).mkdir()
    for i in range(3):
        pq.write_table(table.slice(i * 24, 24), tmp_path / "log" / f"{i}.parquet")
    files = folder_files(str(tmp_path / "log"))
    users = ["u1", "u4", "u5"]
    draw = draw_flat(
        files, read_totals(files), SCHEMA, share=0.4, engine=Elsewhere(tmp_path / "drawn", users)
    )  # fmt: skip
    expected = [r for r in table.to_pylist() if r["user_id"] in users]
    assert flat_table(draw, draw.arrival).select(table.column_names).to_pylist() == expected
    assert draw.share == 0.4


def test_wrong_input_is_one_sentence_each(tmp_path: Path) -> None:
    table = log()
    pq.write_table(table, tmp_path / "a.parquet")
    files = folder_files(str(tmp_path))
    totals = read_totals(files)
    with pytest.raises(SchemaError, match="names no sequence columns"):
        draw_flat(files, totals, SCHEMA.model_copy(update={"sequences": ()}))
    with pytest.raises(SchemaError, match=r"column history is not in the log; expected one of"):
        draw_flat(files, totals, LogSchema.from_dict({**SCHEMA.to_dict(), "sequences": [{"column": "history"}]}))
    with pytest.raises(UsageError, match="more than 0 and at most 1"):
        draw_flat(files, totals, SCHEMA, share=1.5)
    with pytest.raises(InputError, match="no user falls into a share"):
        draw_flat(files, totals, SCHEMA, share=1e-12)
    pq.write_table(table.slice(0, 0), tmp_path / "a.parquet")
    empty = folder_files(str(tmp_path))
    with pytest.raises(InputError, match="has no rows"):
        draw_flat(empty, read_totals(empty), SCHEMA)
