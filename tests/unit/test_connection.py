"""The way in without Spark: lists, descriptions, pins, drops and renames, and what a crash in the middle leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import cast

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

import dedup_storage
from dedup_storage import Settings, connect
from dedup_storage.errors import ConflictError, DatasetExistsError, DatasetNotFoundError, StorageError, UsageError
from dedup_storage.lake.catalogs import open_admin
from dedup_storage.lake.delta.versions import VersionLog
from dedup_storage.lake.iceberg.commit import TableChange, change_table
from dedup_storage.lake.iceberg.metadata import Lake as IcebergLake
from dedup_storage.lake.iceberg.snapshots import tags
from dedup_storage.layout import ROLE_PROPERTY, SPEC_PROPERTY, Layout
from dedup_storage.schema import DateGrain
from tests.reader.lake import Lake, Log, make_log

ROOT = Path(__file__).resolve().parents[2]
LOG = make_log(users=3, requests_per_user=2, candidates=2)
# Tells the way in that the machine died.
Crash = Callable[[str], None]


class Died(Exception):
    """The process ended here."""


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake with one split dataset, clicks."""
    made = Lake(Settings(warehouse=str(tmp_path / "warehouse")))
    made.write("clicks", LOG)
    return made


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch) -> Crash:
    """Dies at a point, once."""

    def at(point: str) -> None:
        def reached(name: str) -> None:
            if name == point:
                monkeypatch.undo()
                raise Died(point)

        monkeypatch.setattr("dedup_storage.lake.iceberg.admin.reached", reached)
        monkeypatch.setattr("dedup_storage.lake.delta.admin.reached", reached)

    return at


def as_version_3(table: Table) -> None:
    """Rewrite a table's metadata as Spark would have left it, in a form that PyIceberg does not write."""
    stored = json.loads(table.io.new_input(table.metadata_location).open().read())
    stored |= {"format-version": 3, "next-row-id": 1000, "key-of-tomorrow": {"a": 1}}
    with table.io.new_output(table.metadata_location).create(overwrite=True) as stream:
        stream.write(json.dumps(stored).encode())


def raw_metadata(table: Table) -> dict[str, object]:
    found: dict[str, object] = json.loads(table.io.new_input(table.metadata_location).open().read())
    return found


# -- the top of the package ---------------------------------------------------------------------------------------


def test_every_public_name_is_there_and_none_brings_an_engine() -> None:
    code = (
        "import sys, dedup_storage as d\n"
        "heavy = {'pyspark', 'torch', 'pyarrow', 'pyiceberg', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert set(d.__all__) <= set(dir(d))\n"
        "d.LogSchema, d.SampleSpec, d.connect, d.Lake\n"
        "assert not {'pyspark', 'torch'} & set(sys.modules)\n"
        "print([getattr(d, name) for name in d.__all__] and 'all there')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == "all there", done.stderr
    with pytest.raises(AttributeError, match="no attribute 'Datasett'"):
        dedup_storage.Datasett  # noqa: B018


def test_settings_are_given_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my.yaml"
    file.write_text(f"warehouse: {tmp_path}/here\n")
    assert connect(file).settings.warehouse == connect(str(file)).settings.warehouse == f"{tmp_path}/here"
    assert connect(Settings(warehouse="there")).settings.origin == "given in Python"
    assert connect().settings.origin == "the embedded defaults"
    monkeypatch.setenv("DEDUP_STORAGE_WAREHOUSE", "elsewhere")
    assert connect(file).settings.origin == f"{file} with DEDUP_STORAGE_WAREHOUSE"
    assert connect(file).settings == Settings.model_validate({"warehouse": "elsewhere"})


# -- lists and descriptions ---------------------------------------------------------------------------------------


def test_datasets_are_listed_and_described(lake: Lake) -> None:
    lake.write("flat", LOG, layout=Layout.FLAT, buckets=2)
    opened = connect(lake.settings)
    assert opened.datasets() == ["clicks", "flat"]
    assert repr(opened) == f"<Lake {lake.settings.warehouse} (iceberg, catalog lake): 2 datasets>"
    found = opened.describe("clicks")
    assert (found.layout, found.version, found.versions, found.buckets) == ("split", 1, 1, 4)
    assert found.rows == {"requests": LOG.requests.num_rows, "impressions": LOG.impressions.num_rows}
    assert found.bytes == sum(p.stat().st_size for p in Path(lake.settings.warehouse, "clicks").rglob("*.parquet"))
    assert opened.describe("flat").rows == {"logs": LOG.impressions.num_rows}


def test_another_folder_is_told_and_stays_empty(lake: Lake, tmp_path: Path) -> None:
    elsewhere = connect(Settings(warehouse=str(tmp_path / "nothing")))
    with pytest.raises(DatasetNotFoundError) as error:
        elsewhere.open("clicks")
    for part in (f"{tmp_path}/nothing", "given in Python", "a warehouse without datasets"):
        assert part in str(error.value)
    assert elsewhere.datasets() == []
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(DatasetNotFoundError, match=r"there is no dataset click .*; expected one of clicks"):
        connect(lake.settings).open("click")


def test_a_table_that_is_dropped_while_a_dataset_is_looked_for_is_passed_over(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = IcebergLake(lake.settings)
    listed = found.catalog.list_tables
    monkeypatch.setattr(found.catalog, "list_tables", lambda space: [*listed(space), (*space, "gone")])
    assert set(found.load("clicks").tables) == {"requests", "impressions"}


# -- pins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_version", [2, 3])
def test_pins_are_tags_of_every_table(lake: Lake, format_version: int) -> None:
    if format_version == 3:
        for name in ("requests", "impressions"):
            as_version_3(lake.table("clicks", name))
    before = {name: raw_metadata(lake.table("clicks", name)) for name in ("requests", "impressions")}
    admin = open_admin(lake.settings)
    pinned = admin.pin("clicks", None, "paper")
    assert admin.pin("clicks", 1, "paper") == pinned
    for name, old in before.items():
        table = lake.table("clicks", name)
        assert tags(table)["pin-v1-paper"] == tags(table)["v1"] == pinned["snapshots"][name]
        new = raw_metadata(table)
        log = new.pop("metadata-log")
        assert isinstance(log, list)
        assert str(log[-1]["metadata-file"]).endswith(".metadata.json")
        changed = {key for key in new if new[key] != old.get(key)}
        assert changed <= {"refs", "last-updated-ms"}
    assert admin.load("clicks").pins(1) == ("paper",)
    assert admin.unpin("clicks", "paper") == [1]
    assert admin.load("clicks").pins(1) == ()
    with pytest.raises(LookupError, match="no version of clicks is pinned as paper"):
        admin.unpin("clicks", "paper")
    with pytest.raises(LookupError, match="has no version 7"):
        admin.pin("clicks", 7, "paper")


def test_a_commit_in_between_is_noticed_and_kept(lake: Lake) -> None:
    first = lake.table("clicks", "requests")
    snapshot, snapshots = tags(first)["v1"], len(first.metadata.snapshots)
    planned = []

    def plan(table: Table) -> TableChange:
        planned.append(table.metadata_location)
        if len(planned) == 1:
            lake.table("clicks", "requests").append(table.scan().to_arrow())
        return TableChange(tags={"mine": snapshot}, set={"a": "1"}, remove=["never.there"])

    table = change_table(lake.catalog, ("clicks", "requests"), plan)
    assert len(planned) == 2
    assert len(table.metadata.snapshots) == snapshots + 1
    assert tags(table)["mine"] == snapshot
    assert table.properties["a"] == "1"
    assert table.scan().to_arrow().num_rows == 2 * LOG.requests.num_rows
    # A metadata file that lost its race is not left behind.
    files = {str(p) for p in Path(table.location(), "metadata").glob("*.metadata.json")}
    assert files == {table.metadata_location, *(e.metadata_file for e in table.metadata.metadata_log)}


class Requests:
    """A catalog that writes metadata itself, as REST servers do: it is sent what changes and what that rests on."""

    def __init__(self, lake: Lake) -> None:
        self.load_table, self.commit_table = lake.catalog.load_table, lake.catalog.commit_table


def test_a_catalog_that_writes_metadata_itself_is_sent_the_change(lake: Lake) -> None:
    catalog = cast(Catalog, Requests(lake))
    snapshot = tags(lake.table("clicks", "requests"))["v1"]
    tagged = change_table(
        catalog, ("clicks", "requests"), lambda _: TableChange(tags={"a": snapshot, "b": snapshot}, set={"x": "1"})
    )
    assert tags(tagged)["a"] == tags(tagged)["b"] == snapshot
    planned = []

    def plan(table: Table) -> TableChange:
        planned.append(table)
        if len(planned) == 1:
            lake.table("clicks", "requests").append(table.scan().to_arrow())
        return TableChange(untag=("a",), remove=("x",))

    changed = change_table(catalog, ("clicks", "requests"), plan)
    assert len(planned) == 2
    assert "a" not in tags(changed)
    assert tags(changed)["b"] == snapshot
    assert "x" not in changed.properties
    assert changed.scan().to_arrow().num_rows == 2 * LOG.requests.num_rows


def test_a_race_that_is_never_won_ends(lake: Lake) -> None:
    def plan(table: Table) -> TableChange:
        lake.table("clicks", "requests").transaction().set_properties(
            {"x": table.metadata_location}
        ).commit_transaction()
        return TableChange(set={"a": "1"})

    with pytest.raises(ConflictError, match=r"clicks\.requests"):
        change_table(lake.catalog, ("clicks", "requests"), plan, attempts=2)


# -- drops --------------------------------------------------------------------------------------------------------


def folders(lake: Lake) -> set[str]:
    return {p.name for p in Path(lake.settings.warehouse).iterdir() if p.is_dir()}


def test_a_drop_takes_the_dataset_and_nothing_else(lake: Lake) -> None:
    lake.write("other", LOG)
    foreign = lake.catalog.create_table("clicks.mine", schema=pa.schema([("x", pa.int64())]))
    dropped = connect(lake.settings).drop("clicks")
    assert set(dropped.tables) == {"requests", "impressions"}
    assert connect(lake.settings).datasets() == ["other"]
    assert lake.catalog.list_tables("clicks") == [("clicks", "mine")]
    assert Path(foreign.location()).is_dir()
    assert {p.name for p in Path(lake.settings.warehouse, "clicks").iterdir()} == {"mine"}
    with pytest.raises(DatasetNotFoundError, match="no dataset clicks"):
        connect(lake.settings).drop("clicks")
    connect(lake.settings).drop("other")
    assert folders(lake) == {"clicks"}


@pytest.mark.parametrize(
    "point", ["drop:begun", "drop:entry-impressions", "drop:impressions", "drop:entry-requests", "drop:anchor"]
)
def test_a_drop_that_was_stopped_is_finished_by_the_next(lake: Lake, crash: Crash, point: str) -> None:
    opened = connect(lake.settings)
    crash(point)
    with pytest.raises(Died):
        opened.drop("clicks")
    assert opened.datasets() == []
    with pytest.raises(DatasetNotFoundError) as error:
        opened.describe("clicks")
    assert ("A drop was stopped" in str(error.value)) == (point not in ("drop:entry-requests", "drop:anchor"))
    opened.drop("clicks")
    assert folders(lake) == set()
    assert lake.catalog.list_namespaces() == []


def test_a_drop_asks_who_is_at_work(lake: Lake) -> None:
    opened, table = connect(lake.settings), lake.table("clicks", "impressions")
    snapshot = tags(table)["v1"]
    change_table(lake.catalog, ("clicks", "impressions"), lambda _: TableChange(tags={"run-abc": snapshot}))
    with pytest.raises(UsageError, match="run-abc"):
        opened.drop("clicks")
    with pytest.raises(UsageError, match="run-abc"):
        opened.rename("clicks", "later")
    assert opened.datasets() == ["clicks"]
    opened.drop("clicks", force=True)
    assert opened.datasets() == []


def test_a_decided_version_counts_as_work(lake: Lake) -> None:
    snapshot = tags(lake.table("clicks", "requests"))["v1"]
    change_table(lake.catalog, ("clicks", "requests"), lambda _: TableChange(tags={"claim-v2": snapshot}))
    with pytest.raises(UsageError, match="version 2 is decided and not complete"):
        connect(lake.settings).drop("clicks")


def test_files_of_an_adopted_log_stay(lake: Lake) -> None:
    spec = lake.write("old", LOG, layout=Layout.FLAT)
    adopted = spec.model_copy(update={"adopted": True}).to_json()
    change_table(lake.catalog, ("old", "logs"), lambda _: TableChange(set={SPEC_PROPERTY: adopted}))
    files = sorted(Path(lake.table("old", "logs").location()).rglob("*.parquet"))
    dropped = connect(lake.settings).drop("old")
    assert [p for p in files if p.is_file()] == files
    assert dropped.folders == ()
    again = lake.catalog.register_table("clicks.again", dropped.kept[0])
    assert again.scan().to_arrow().num_rows == LOG.impressions.num_rows


def test_a_folder_of_two_tables_is_not_removed(lake: Lake) -> None:
    shared = lake.table("clicks", "impressions")
    lake.catalog.create_namespace("foreign")
    lake.catalog.register_table("foreign.same_place", shared.metadata_location)
    with pytest.raises(StorageError, match=r"foreign\.same_place"):
        connect(lake.settings).drop("clicks")
    assert connect(lake.settings).datasets() == ["clicks"]


# -- renames ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [None, "rename:begun", "rename:impressions", "rename:requests"])
def test_a_rename_is_whole_or_finished_by_the_next(lake: Lake, crash: Crash, point: str | None) -> None:
    opened = connect(lake.settings)
    before = {name: lake.table("clicks", name).scan().to_arrow() for name in ("requests", "impressions")}
    if point is not None:
        crash(point)
        with pytest.raises(Died):
            opened.rename("clicks", "views")
        # Nobody sees half of it.
        assert opened.datasets() == []
        if point != "rename:requests":
            with pytest.raises(DatasetNotFoundError, match="datasets rename clicks views"):
                opened.describe("clicks")
    opened.rename("clicks", "views")
    assert opened.datasets() == ["views"]
    assert opened.describe("views").rows["requests"] == LOG.requests.num_rows
    for name, rows in before.items():
        assert lake.table("views", name).scan().to_arrow().equals(rows)
    assert [n[0] for n in lake.catalog.list_namespaces()] == ["views"]
    with pytest.raises(DatasetNotFoundError, match="no dataset clicks"):
        opened.rename("clicks", "views")
    opened.drop("views")
    assert folders(lake) == set()


def test_a_name_that_is_taken_is_refused(lake: Lake) -> None:
    lake.write("other", LOG)
    opened = connect(lake.settings)
    with pytest.raises(DatasetExistsError, match="the name other is taken"):
        opened.rename("clicks", "other")
    with pytest.raises(UsageError, match="has that name already"):
        opened.rename("clicks", "clicks")
    with pytest.raises(ValueError, match="dataset name"):
        opened.rename("clicks", "a b")
    assert opened.datasets() == ["clicks", "other"]


def test_a_table_made_under_a_name_that_was_free_lies_apart(lake: Lake) -> None:
    """Two tables in one folder would take each other's files for orphans."""
    from dedup_storage.lake.iceberg.metadata import Lake as Catalog

    seen = Catalog(lake.settings)
    assert seen.place_of_new("new", "requests") is None
    connect(lake.settings).rename("clicks", "views")
    place = seen.place_of_new("clicks", "requests")
    assert place is not None
    assert place.startswith(f"{lake.settings.warehouse}/clicks/requests-")
    assert not Path(place).exists()
    lake.catalog.create_namespace("elsewhere", {"location": f"{lake.settings.warehouse}/clicks"})
    assert str(seen.place_of_new("elsewhere", "impressions")).startswith(f"{lake.settings.warehouse}/clicks/")


# -- Delta --------------------------------------------------------------------------------------------------------


def delta_lake(warehouse: Path, lake: Lake, name: str, log: Log = LOG) -> Settings:
    """The dataset clicks of a lake as Delta tables, one version."""
    spec = lake.table("clicks", "requests").properties[SPEC_PROPERTY]
    settings = Settings(warehouse=str(warehouse), format="delta")
    for table, rows in {"requests": log.requests, "impressions": log.impressions}.items():
        write_deltalake(str(warehouse / name / table), rows)
        configure(
            warehouse / name / table, {ROLE_PROPERTY: table} | ({SPEC_PROPERTY: spec} if table == "requests" else {})
        )
    events = VersionLog(str(warehouse / name))
    events.create()
    assert events.claim(1, {"run-id": "one", "job": "write", "parent": "0"})
    counts = {"requests": log.requests.num_rows, "impressions": log.impressions.num_rows}
    assert events.publish(1, {"snapshots": {"requests": 0, "impressions": 0}, "rows": counts})
    return settings


def configure(folder: Path, properties: dict[str, str]) -> None:
    """Give a table properties that ``deltalake`` does not write, in its first commit."""
    file = folder / "_delta_log" / "00000000000000000000.json"
    actions = [json.loads(line) for line in file.read_text().splitlines()]
    for action in actions:
        if "metaData" in action:
            action["metaData"]["configuration"] = properties
    file.write_text("".join(json.dumps(action) + "\n" for action in actions))


def test_delta_datasets_are_described_pinned_renamed_and_dropped(lake: Lake, tmp_path: Path) -> None:
    settings = delta_lake(tmp_path / "delta", lake, "clicks")
    opened, admin = connect(settings), open_admin(settings)
    assert repr(opened) == f"<Lake {tmp_path}/delta (delta): 1 dataset>"
    found = opened.describe("clicks")
    assert (found.format, found.version) == ("delta", 1)
    assert found.rows == {"requests": LOG.requests.num_rows, "impressions": LOG.impressions.num_rows}
    admin.pin("clicks", 1, "paper")
    with pytest.raises(UsageError, match="pinned versions: version 1 as paper"):
        opened.drop("clicks")
    assert admin.unpin("clicks", "paper") == [1]
    opened.rename("clicks", "views")
    assert opened.datasets() == ["views"]
    assert opened.describe("views").name == "views"
    assert DeltaTable(str(tmp_path / "delta" / "views" / "requests")).to_pyarrow_table().num_rows == 6
    (tmp_path / "delta" / "views" / "mine").mkdir()
    opened.drop("views")
    assert opened.datasets() == []
    # What is not the dataset's stays.
    assert [p.name for p in (tmp_path / "delta" / "views").iterdir()] == ["mine"]


@pytest.mark.parametrize("point", ["drop:begun", "drop:requests", "drop:impressions", "drop:_runs"])
def test_a_drop_on_delta_that_was_stopped_is_finished(lake: Lake, tmp_path: Path, crash: Crash, point: str) -> None:
    opened = connect(delta_lake(tmp_path / "delta", lake, "clicks"))
    crash(point)
    with pytest.raises(Died):
        opened.drop("clicks")
    assert opened.datasets() == []
    with pytest.raises(DatasetNotFoundError, match="datasets drop clicks"):
        opened.describe("clicks")
    opened.drop("clicks")
    assert list((tmp_path / "delta").iterdir()) == []


def test_a_drop_on_delta_stopped_amid_the_events_is_finished(lake: Lake, tmp_path: Path, crash: Crash) -> None:
    opened = connect(delta_lake(tmp_path / "delta", lake, "clicks"))
    crash("drop:_runs")
    with pytest.raises(Died):
        opened.drop("clicks")
    events = tmp_path / "delta" / "clicks" / "_versions"
    for file in events.glob("_delta_log/*"):
        file.unlink()
    opened.drop("clicks")
    assert list((tmp_path / "delta").iterdir()) == []


def test_a_folder_that_is_no_dataset_is_left_alone(lake: Lake, tmp_path: Path) -> None:
    opened = connect(delta_lake(tmp_path / "delta", lake, "clicks"))
    (tmp_path / "delta" / "photos").mkdir()
    with pytest.raises(DatasetNotFoundError, match="no dataset photos"):
        opened.drop("photos")
    with pytest.raises(DatasetExistsError, match="the name photos is taken"):
        opened.rename("clicks", "photos")
    assert (tmp_path / "delta" / "photos").is_dir()


def test_renaming_on_an_object_store_is_refused(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = delta_lake(tmp_path / "delta", lake, "clicks")
    monkeypatch.setattr(Settings, "local_warehouse", None)
    with pytest.raises(UsageError, match="cannot be renamed on an object store"):
        connect(settings).rename("clicks", "views")


@pytest.mark.parametrize("grain", [DateGrain.DAY, DateGrain.MONTH])
def test_a_version_tells_which_dates_it_may_hold(tmp_path: Path, grain: DateGrain) -> None:
    made = Lake(Settings(warehouse=str(tmp_path / "warehouse")))
    made.write("clicks", LOG, date_grain=grain)
    meta = IcebergLake(made.settings).load("clicks")
    snapshot = meta.snapshots(1)["requests"]
    days = sorted({day.as_py() for day in LOG.requests["event_date"]})
    day = timedelta(days=1)
    assert meta.may_hold("requests", snapshot, days[0], days[0])
    assert meta.may_hold("requests", snapshot, days[0] - 9 * day, days[-1] + 9 * day)
    assert not meta.may_hold("requests", snapshot, days[0] - 2 * day, days[0] - day)
    assert not meta.may_hold("requests", snapshot, days[-1] + day, days[-1] + 400 * day)
