"""The report on layout ``user``: its draw is that of split layout, its bytes are those of the files."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dedup_storage.config import Settings
from dedup_storage.dedup.hashing import hash_column
from dedup_storage.errors import StorageError
from dedup_storage.report.draw.dataset import draw_dataset, stored_rows
from dedup_storage.report.draw.event_lists import with_lists
from dedup_storage.report.draw.select import Drawn, choose_users, no_users
from dedup_storage.report.draw.users import LogDraw
from dedup_storage.report.estimate.baselines import BaselineLayout
from dedup_storage.report.measure import measure_dataset
from dedup_storage.report.model import Report
from dedup_storage.report.parquet.dataset_files import dataset_files, folder_files
from dedup_storage.report.parquet.tables import DatasetFiles, TableFiles, read_totals
from dedup_storage.report.show.html import html
from dedup_storage.report.show.text import headline, markdown
from dedup_storage.report.tune.dataset import tune_dataset
from dedup_storage.report.tune.search import Grid
from dedup_storage.schema import DateGrain
from tests.reader.lake import Lake
from tests.reader.user_layout import make_histories, write_user

Both = tuple[DatasetFiles, DatasetFiles]


@pytest.fixture(scope="session")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """One log in split layout and in layout ``user``."""
    settings = Settings(warehouse=str(tmp_path_factory.mktemp("report_user") / "warehouse"))
    lake, log = Lake(settings), make_histories(40)
    lake.write("r_split", log, date_grain=DateGrain.MONTH, buckets=2)
    write_user(lake, "r_user", log, row_group_rows=64)
    split, user = (dataset_files(settings, name) for name in ("r_split", "r_user"))
    # The helper mends a file that PyIceberg wrote: its size is no longer the one that the table states.
    tables = tuple(replace(t, files=tuple(replace(f, size_bytes=None) for f in t.files)) for t in user.tables)
    return split, replace(user, tables=tables)


@pytest.fixture(scope="session")
def report(both: Both) -> Report:
    return measure_dataset(both[1], with_curves=False)


def drawn(files: DatasetFiles, **options: object) -> LogDraw:
    return draw_dataset(files, {t.name: read_totals(t) for t in files.tables}, **options)  # type: ignore[arg-type]


def same(left: LogDraw, right: LogDraw) -> None:
    assert left.requests.schema == right.requests.schema
    for name in left.requests.column_names:
        assert np.array_equal(hash_column(left.requests[name]), hash_column(right.requests[name])), name
    assert left.impressions.equals(right.impressions)
    assert np.array_equal(left.inverse, right.inverse)


class Engine:
    """Writes the rows of a share of users into folders, as Spark does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows_per_request(self, table: TableFiles, schema: object) -> float:
        raise NotImplementedError

    def __call__(self, table: TableFiles, user: str, share: float, columns: list[str]) -> Drawn:
        rows = pa.concat_tables([pq.read_table(f.path.removeprefix("file://")) for f in table.files])
        rows = rows.filter(pa.array(choose_users(hash_column(rows[user]), share)))
        if not rows.num_rows:
            raise no_users(share)
        place = self.folder / table.name
        place.mkdir()
        pq.write_table(rows.select(columns), place / "0.parquet")
        return Drawn(folder_files(str(place)), {})


def test_a_draw_is_that_of_split_layout(both: Both, tmp_path: Path) -> None:
    split, user = both
    same(drawn(split), drawn(user))
    some = drawn(user, share=0.3)
    assert 4 < some.num_users < 20
    same(drawn(split, share=0.3), some)
    same(some, drawn(user, share=0.3, engine=Engine(tmp_path)))
    # What fits a budget counts the lists as they are when they are made.
    assert drawn(user, budget_bytes=200_000).share == pytest.approx(drawn(split, budget_bytes=200_000).share, rel=0.2)


def test_events_that_are_not_there_are_an_error(both: Both) -> None:
    files = both[1]
    spec = files.spec
    rows = {t.name: pa.concat_tables([pq.read_table(f.path.removeprefix("file://")) for f in t.files])
            for t in files.tables}  # fmt: skip
    requests = rows["requests"]
    events = {group.name: rows[group.table] for group in spec.events}
    views = events["views"]
    without = [pc.not_equal(views["position"], 3), pc.less(views["position"], 3), pc.not_equal(views["user_id"], 7)]
    for changed in (*map(views.filter, without), pa.concat_tables([views, views.slice(5, 1)]), views.slice(0, 0)):
        with pytest.raises(StorageError, match="events_views of r_user does not hold every event of a user once"):
            with_lists(spec, requests, {**events, "views": changed})
    # Rows that a deletion vector hides lie in the files all the same.
    twice = {**events, "views": pa.concat_tables([views, views.slice(5, 20)])}
    whole = with_lists(spec, requests, events)
    again = with_lists(spec, requests, twice, repeated=True)
    assert np.array_equal(hash_column(whole["prices"]), hash_column(again["prices"]))


def test_bytes_equal_footers_to_the_byte(both: Both, report: Report) -> None:
    split, files = both
    stored: Counter[tuple[str, str]] = Counter()
    for table in files.tables:
        for file in table.files:
            footer = pq.read_metadata(file.path.removeprefix("file://"))
            for g in range(footer.num_row_groups):
                for c in range(footer.num_columns):
                    chunk = footer.row_group(g).column(c)
                    stored[table.name, chunk.path_in_schema.split(".")[0]] += chunk.total_compressed_size
    assert {(c.table, c.column): c.stored_bytes for c in report.columns} == stored
    histories = {(c.table, c.column) for c in report.columns if c.sequence}
    lists = {"items", "prices", "words", "buys"}
    assert histories == {key for key in stored if key[0].startswith("events_") or key[1] in lists | {"views_runs",
                         "bought_runs"}}  # fmt: skip
    assert {c.grain for c in report.columns if c.table.startswith("events_")} == {"event"}
    assert sum(p.stored_bytes for p in report.buckets) == report.stored_bytes
    assert {p.value for p in report.grains} == {"request", "impression", "event", "system"}
    views, bought = report.user_lists[1], report.user_lists[0]
    if views.group != "views":
        views, bought = bought, views
    assert sum(g.stored_bytes for g in report.user_lists) == report.sequence_bytes
    for group in (views, bought):
        own = [(c, n) for (t, c), n in stored.items() if t == f"events_{group.group}"]
        assert group.event_bytes == sum(n for c, n in own if c in group.columns)
        assert group.key_bytes == sum(n for c, n in own if c not in group.columns)
        assert group.run_bytes == stored["requests", f"{group.group}_runs"]
        assert group.list_bytes == sum(stored["requests", c] for c in group.columns)
        assert group.request_lists is not None
        assert group.ratio == group.request_lists.value / group.stored_bytes
    totals = {t.name: read_totals(t) for t in files.tables}
    assert (views.events, bought.events) == (totals["events_views"].rows, totals["events_bought"].rows)
    runs = [len(r) for f in files.tables[0].files
            for r in pq.read_table(f.path.removeprefix("file://"))["views_runs"].drop_null().to_pylist()]  # fmt: skip
    assert views.runs == sum(runs)
    assert bought.newest_first
    # What the lists would be otherwise does not depend on how they are stored now.
    other = measure_dataset(split, with_curves=False)
    assert [b.sequences for b in report.baselines if b.layout == "split"] == [
        b.sequences for b in other.baselines if b.layout == "split"
    ]
    assert other.user_lists == ()
    assert [(g.group, g.tokens, g.runs) for g in other.user_grain] == [
        (g.group, g.tokens, g.runs) for g in report.user_grain
    ]


def test_the_tuner_takes_tables_as_they_are_stored(both: Both) -> None:
    grid = Grid(page_bytes=(4096, 8 * 1024**2), row_group_bytes=(128 * 1024**2,), level=(3,), page_version=(1,))
    files = both[1]
    proposals = tune_dataset(files, tolerance=1e9, grid=grid)
    rows = {t.name: sum(pq.read_metadata(f.path.removeprefix("file://")).num_rows for f in t.files)
            for t in files.tables}  # fmt: skip
    assert {p.table: p.rows for p in proposals} == rows
    assert {c.column for c in next(p for p in proposals if p.table == "events_views").columns} == {
        "user_id", "position", "epoch", "items", "prices", "words",
    }  # fmt: skip
    assert all(p.stored_bytes <= p.start_bytes for p in proposals)
    # Of a part of the users each table has those of the same.
    part = stored_rows(files, {t.name: read_totals(t) for t in files.tables}, share=0.3)
    users = {name: set(table["user_id"].to_pylist()) for name, table in part.items()}
    assert 4 < len(users["requests"]) < 20
    assert users["impressions"] == users["requests"] >= users["events_views"] | users["events_bought"]


def test_footers_alone_tell_what_is_stored(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_rows(*_: object, **__: object) -> None:
        raise AssertionError("data pages were read")

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", no_rows)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", no_rows)
    groups = measure_dataset(both[1], baselines=()).user_lists
    assert all(g.stored_bytes and g.ratio is None and g.floor is None for g in groups)


def test_a_part_of_the_users_tells_the_whole_within_its_interval(both: Both, report: Report) -> None:
    part = measure_dataset(both[1], baselines=(BaselineLayout.SPLIT,), share=0.5, with_curves=False)
    whole = {g.group: g for g in report.user_grain}
    assert part.sample is not None
    assert part.sample.share < 1
    for group in part.user_grain:
        for name in ("requests", "tokens", "events"):
            found, truth = getattr(group, name), getattr(whole[group.group], name).value
            assert found.low <= truth <= found.high, (group.group, name)
    assert all(g.request_lists is not None and g.request_lists.low < g.request_lists.high for g in part.user_lists)


def test_page_and_texts_show_it(report: Report) -> None:
    assert Report.model_validate_json(report.to_json()) == report
    assert "user layout" in headline(report)
    assert "a list for each request would take" in headline(report)
    for text in (html(report), markdown(report).replace("\\", "")):
        for title in ("Users' lists as they are stored", "lists that are no windows", "a list for each request"):
            assert title in text.replace("&#39;", "'")
        assert "events_views" in text
        assert "Events belong to no event date" in text
