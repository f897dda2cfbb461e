"""The report as a whole: what it says, how it is shown, what it is compared with."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from rich.table import Table

from dedup_storage.errors import InputError, SchemaError, StorageError, UnknownColumnError, UsageError
from dedup_storage.report.estimate.savings import estimate_savings
from dedup_storage.report.measure import measure_log
from dedup_storage.report.model import Report, json_schema, load_report
from dedup_storage.report.parquet.dataset_files import folder_files
from dedup_storage.report.parquet.tables import TableFiles
from dedup_storage.report.show.compare import RegressionError, compare, comparison_table
from dedup_storage.report.show.html import html
from dedup_storage.report.show.plots import plots
from dedup_storage.report.show.savings import savings_text
from dedup_storage.report.show.text import headline, markdown, terminal
from dedup_storage.schema import LogSchema
from dedup_storage.synth import SynthParams, write_log

PARAMS = SynthParams.preset("small")
SCHEMA = PARAMS.log_schema()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TableFiles:
    """A small synthetic log."""
    place = tmp_path_factory.mktemp("raw") / "raw"
    write_log(PARAMS, place)
    return folder_files(str(place / "log"))


@pytest.fixture(scope="module")
def report(files: TableFiles) -> Report:
    """Its report."""
    return measure_log(files, SCHEMA)


def test_bytes_equal_footers_and_files_to_the_byte(files: TableFiles, report: Report) -> None:
    stored = dict.fromkeys((c.column for c in report.columns), 0)
    for file in files.files:
        metadata = pq.read_metadata(file.path)
        for g in range(metadata.num_row_groups):
            for c in range(metadata.num_columns):
                chunk = metadata.row_group(g).column(c)
                stored[chunk.path_in_schema.split(".")[0]] += chunk.total_compressed_size
    assert {c.column: c.stored_bytes for c in report.columns} == stored
    assert report.stored_bytes == sum(Path(f.path).stat().st_size for f in files.files)
    table = report.tables[0]
    assert table.column_bytes + table.overhead_bytes == report.stored_bytes
    assert sum(g.stored_bytes for g in report.grains) == table.column_bytes


def test_raw_bytes_are_those_of_arrow(files: TableFiles, report: Report) -> None:
    table = pa.concat_tables(pq.read_table(f.path) for f in files.files).combine_chunks()
    for column in report.columns:
        assert column.raw_known
        assert column.raw_bytes == pytest.approx(table[column.column].nbytes, rel=0.03, abs=1200)
        if column.sequence:
            assert column.values == len(table[column.column].combine_chunks().flatten())


def test_sequences_come_first_and_repeat_once_a_request(files: TableFiles, report: Report) -> None:
    assert [c.sequence for c in report.columns] == sorted((c.sequence for c in report.columns), reverse=True)
    table = pa.concat_tables(pq.read_table(f.path) for f in files.files)
    requests = len(set(zip(table["user_id"].to_pylist(), table["request_id"].to_pylist(), strict=True)))
    assert report.dedup_factor == pytest.approx(table.num_rows / requests)
    history = next(c for c in report.columns if c.column == "hist_times")
    assert history.rows_per_request_value == pytest.approx(table.num_rows / requests)


def test_json_round_trip_and_versions(report: Report, tmp_path: Path) -> None:
    place = tmp_path / "report.json"
    place.write_text(report.to_json())
    assert load_report(place) == report
    place.write_text(report.to_json().replace('"format": 1', '"format": 2'))
    with pytest.raises(InputError, match=r"another format; expected 1; got 2"):
        load_report(place)
    place.write_text("not json")
    with pytest.raises(InputError, match="is not JSON"):
        load_report(place)
    place.write_text('{"format": 1, "nonsense": 2}')
    with pytest.raises(InputError, match=r"key nonsense is unknown"):
        load_report(place)


def test_the_documented_schema_is_that_of_the_report() -> None:
    documented = Path(__file__).resolve().parents[2] / "docs" / "compression-report.schema.json"
    assert documented.read_text(encoding="utf-8") == json_schema()


class Page(HTMLParser):
    """Collects what a page would load, and checks that its elements nest."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.tables = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "iframe", "img", "object"):
            self.loads.append(tag)
        self.loads += [f"{k}={v}" for k, v in attrs if k in ("src", "href") and not str(v).startswith("#")]
        self.loads += [f"{k}={v}" for k, v in attrs if k == "xlink:href" and not str(v).startswith("#")]
        self.tables += tag == "table"
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_nests(report: Report) -> None:
    text = html(report)
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.loads == []
    assert page.tables >= 3
    assert "url(http" not in text
    assert "@import" not in text
    for wanted in ("prefers-color-scheme: dark", "@media print", headline(report)):
        assert wanted in text


def test_every_plot_is_svg_in_the_page_s_colours(report: Report) -> None:
    drawn = plots(report)
    assert [c.split(":")[0].split(",")[0] for c, _ in drawn] == [
        "Sequence columns", "Stored bytes by column", "Ratio of the sequence columns", "Ratio of the sequence columns",
    ]  # fmt: skip
    for _, svg in drawn:
        ET.fromstring(svg)  # noqa: S314 - made here
        # No number of an axis was left as the text of a formula.
        assert "$" not in svg
        colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg))
        assert "var(--bar)" in colours
        assert colours <= {"none", "var(--ink)", "var(--bar)", "var(--muted)"}


def test_names_from_the_data_are_escaped(report: Report) -> None:
    hostile = report.model_copy(update={"subject": "<script>alert(1)</script>|x"})
    assert "<script>" not in html(hostile)
    assert "<script>" not in markdown(hostile)
    assert "script>\\|x" in markdown(hostile)


def test_terminal_and_markdown_hold_every_column(report: Report) -> None:
    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal(report))
    shown, text = console.export_text(), markdown(report)
    for column in report.columns:
        assert column.column in shown
        assert column.column.replace("_", "\\_") in text
    for baseline in report.baselines:
        assert baseline.title in shown
        assert baseline.title in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count(" | ") for line in tables if line.startswith("| hist")} == {12}


def test_footers_alone_read_no_data(files: TableFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("data pages were read")

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", refuse)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", refuse)
    bare = measure_log(files, SCHEMA, baselines=())
    assert bare.baselines == ()
    assert bare.sample is None
    assert "would need" not in headline(bare)
    assert html(bare)


def test_a_comparison_finds_what_grew(report: Report) -> None:
    column = report.columns[0]
    grown = column.model_copy(update={"stored_bytes": round(column.stored_bytes * 1.2)})
    after = report.model_copy(
        update={
            "columns": (grown, *report.columns[1:]),
            "stored_bytes": report.stored_bytes + grown.stored_bytes - column.stored_bytes,
        }
    )
    assert not compare(report, report, threshold=0.0).regressions
    found = compare(report, after, threshold=0.1)
    assert [c.column for c in found.regressions if c.column] == [column.column]
    assert found.changes[1].growth == pytest.approx(0.2, abs=0.01)
    with pytest.raises(RegressionError, match=rf"{column.column} needs more bytes a row"):
        found.raise_on_regression()
    assert RegressionError("x").exit_code == 1
    compare(report, after, threshold=0.3).raise_on_regression()
    assert comparison_table(found).row_count == len(found.changes)
    with pytest.raises(UsageError, match="threshold is negative"):
        compare(report, after, threshold=-1)


def test_a_log_that_grows_is_no_regression(report: Report) -> None:
    doubled = report.model_copy(
        update={
            "stored_bytes": 2 * report.stored_bytes,
            "tables": tuple(t.model_copy(update={"rows": 2 * t.rows}) for t in report.tables),
            "columns": tuple(c.model_copy(update={"stored_bytes": 2 * c.stored_bytes}) for c in report.columns),
        }
    )
    assert not compare(report, doubled, threshold=0.0).regressions


def test_savings_of_a_whole_log_are_exact(files: TableFiles) -> None:
    savings = estimate_savings(files, SCHEMA, share=1.0)
    table = pa.concat_tables(pq.read_table(f.path) for f in files.files)
    requests = len(set(zip(table["user_id"].to_pylist(), table["request_id"].to_pylist(), strict=True)))
    assert savings.requests.low == savings.requests.value == savings.requests.high == requests
    assert savings.dedup_factor == pytest.approx(table.num_rows / requests)
    assert savings.flat_wire_bytes == pytest.approx(table.nbytes, rel=0.05)
    assert savings.wire_saving > 2
    assert "users" in str(list(savings_text(savings).renderables))
    for made_plain, title in ((False, "as it is now"), (True, "plain flat rows, in the log's order")):
        table = next(t for t in savings_text(savings, made_plain=made_plain).renderables if isinstance(t, Table))
        assert next(iter(table.columns[0].cells)) == title


def test_savings_of_a_part_state_their_interval(files: TableFiles) -> None:
    savings = estimate_savings(files, SCHEMA, share=0.6)
    assert savings.requests.low < savings.requests.value < savings.requests.high
    for layout in savings.layouts:
        assert layout.total.low < layout.total.value < layout.total.high
        assert layout.rough == (layout.layout == "floor")


def test_what_a_share_makes_idle_is_refused(files: TableFiles) -> None:
    told = "the size of the draw does nothing beside a share of the users"
    for measure in (measure_log, estimate_savings):
        with pytest.raises(UsageError, match=told):
            measure(files, SCHEMA, share=0.5, draw_bytes=1000)  # type: ignore[operator]
    with pytest.raises(UsageError, match="precision does nothing beside a share"):
        estimate_savings(files, SCHEMA, share=0.5, precision=0.2)


def test_wrong_input_is_one_sentence_each(files: TableFiles, tmp_path: Path) -> None:
    with pytest.raises(UnknownColumnError, match=r"column hist_item is not in .*expected one of hist_item_ids"):
        measure_log(files, SCHEMA, columns=("hist_item",), baselines=())
    with pytest.raises(SchemaError, match="names no sequence columns"):
        measure_log(files, SCHEMA.model_copy(update={"sequences": ()}), share=0.5)
    bare = measure_log(files, SCHEMA.model_copy(update={"sequences": ()}))
    assert (bare.baselines, bare.sample) == ((), None)
    assert "no histories" in " ".join(bare.notes)
    table = pq.read_table(files.files[0].path)
    pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="there are no rows"):
        measure_log(folder_files(str(tmp_path)), SCHEMA)
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(Path(files.files[0].path).read_bytes()[:-20])
    with pytest.raises(StorageError, match=r"torn\.parquet cannot be read"):
        measure_log(folder_files(str(torn)), SCHEMA)
    wrong = LogSchema.from_dict({**SCHEMA.to_dict(), "user": "userid"})
    with pytest.raises(SchemaError, match=r"column userid is not in .*expected one of user_id"):
        measure_log(files, wrong, baselines=())
