"""The command line without Spark: exit status, one message for an error, shared options, what is printed."""

from __future__ import annotations

import json as jsonlib
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from dedup_storage.cli import app
from dedup_storage.cli.output import format_value, show_summary, show_table
from dedup_storage.cli.runtime import Job, job
from dedup_storage.config import Settings, default_config, load_settings
from dedup_storage.errors import ConflictError, DedupStorageError, InputError, QualityGateError

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted(p.stem.replace("_", "-") for p in (ROOT / "jobs").glob("*.py"))
SCHEMA = "user: u\nrequest: r\nitem: i\n"


def _toy(error: BaseException | None = None) -> typer.Typer:
    """An application of one job that raises ``error``, or reports a summary."""

    @job
    def toy(job: Job, name: Annotated[str, typer.Option()] = "x") -> None:
        """A job."""
        if error is not None:
            raise error
        job.done("Done", {"name": name, "warehouse": job.settings.warehouse, "stored_bytes": 1500})

    application = typer.Typer()
    application.command()(toy)
    return application


def _run(application: typer.Typer, *arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(application, list(arguments))
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["write", "raw", "--dataset", "clicks", "--config", "a.yaml", "--config", "b.yaml"],
        ["datasets", "list", "--json", "a", "--json", "a"],
        ["write", "raw", "--dataset", "clicks", "--gate", "--no-gate"],
    ],
)
def test_an_option_that_holds_one_value_is_given_once(arguments: list[str]) -> None:
    """Of two settings files the last one counted, without a word."""
    status, _, told = _run(app, *arguments)
    assert status == 2
    assert "is given twice" in told
    # What is on twice is on.
    assert _run(app, "datasets", "list", "-q", "--quiet")[0] == 0


def test_no_message_shows_a_secret_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other clients' words may quote one: an address with its key, the header that could not be sent."""
    monkeypatch.setenv("DEDUP_STORAGE_CATALOG__TOKEN", "hunter2")
    for error in (InputError("no s3://KEY:hunter3@logs of hunter2"), RuntimeError("no Bearer hunter2")):
        status, out, told = _run(_toy(error), "--debug")
        assert status in (1, 2)
        assert "hunter" not in f"{out}{told}"
        assert "***" in told


@pytest.mark.parametrize("name", JOBS)
def test_every_script_is_a_command(name: str) -> None:
    status, out, _ = _run(app, name, "--help")
    assert status == 0
    if name not in ("datasets", "versions", "features", "sample"):  # their sub-commands have them
        for option in ("--config", "--json", "--debug", "--quiet"):
            assert option in out


def test_two_frames_of_csv_are_validated_as_write_reads_them(tmp_path: Path) -> None:
    """The requests were asked for the item, which only the impressions have."""
    (tmp_path / "s.yaml").write_text("user: u\nrequest: r\nitem: i\n")
    (tmp_path / "requests.csv").write_text("u,r,country\n1,1,DK\n")
    (tmp_path / "impressions.csv").write_text("u,r,i\n1,1,5\n")
    status, out, err = _run(
        app, "validate", "requests.csv", "--impressions", "impressions.csv", "--schema", "s.yaml", "--json", "-"
    )
    assert (status, err) == (0, "")
    assert list(jsonlib.loads(out)["columns"]) == ["u", "r", "country", "i"]


def test_every_command_is_a_script() -> None:
    names = {c.name for c in app.registered_commands} | {g.name for g in app.registered_groups}
    assert names == set(JOBS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("add-features", "features add"),
        ("refresh-features", "features refresh"),
        ("promote-features", "features promote"),
        ("drop-features", "features drop"),
        ("compression-report", "report"),
    ],
)
def test_former_names_go_on_working_and_say_the_new_one(old: str, new: str) -> None:
    shown = _run(app, "--help")[1]
    assert old not in shown
    arguments = ("--dataset", "d") if new == "report" else ("x", "--dataset", "d")
    if new == "features add":
        arguments += ("--sql", "a=1")
    status, _, err = _run(app, old, *arguments)
    assert err.splitlines()[0] == f"{old} is now: dedup-storage {new}"
    assert status == 2
    assert err.splitlines()[1].startswith("error: there is no dataset d ")
    assert _run(app, *new.split(), *arguments) == (2, "", "\n".join(err.splitlines()[1:]) + "\n")


# Commands without --dry-run, and why they need none.
_NO_DRY_RUN = {
    "generate": "makes one new folder, of which its options say everything",
    "infer-schema": "prints the schema file where --output names none",
    "validate": "reads",
    "estimate": "reads",
    "report": "reads; writes the pages that it is asked for",
    "check": "reads; the gate's page lies beside the dataset",
    "tune": "changes properties with --apply alone, and else says them",
    "join": "says with --explain what it would do",
    "doctor": "tries what it is asked about, and removes what it made for that",
    "datasets list": "reads",
    "datasets describe": "reads",
    "versions list": "reads",
    "versions status": "reads",
    "features list": "reads",
    "features describe": "reads",
    "sample list": "reads",
    "sample describe": "reads",
    "sample plan": "reads",
    "sample report": "reads; writes the page that it is asked for",
}


def test_every_command_that_writes_has_a_dry_run() -> None:
    root = typer.main.get_command(app)
    without, open_commands = set(), [((), root)]
    while open_commands:
        words, command = open_commands.pop()
        inner = getattr(command, "commands", None)
        if inner is not None:
            open_commands += [((*words, name), each) for name, each in inner.items() if not each.hidden]
        elif not any("--dry-run" in option.opts for option in command.params):
            without.add(" ".join(words))
    assert without == set(_NO_DRY_RUN)


def test_a_script_runs_a_command_of_a_group(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["refresh_features.py", "sizes", "--dataset", "d"])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(ROOT / "jobs" / "refresh_features.py"), run_name="__main__")
    assert done.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: there is no dataset d ")
    assert "is now" not in message


def test_one_option_has_one_spelling_and_the_former_ones_are_hidden() -> None:
    for command in (("backfill",), ("features", "add")):
        shown = _run(app, *command, "--help")[1]
        assert "--sql" in shown
        assert "--set" not in shown
        assert "--expression" not in shown
    shown = _run(app, "sample", "create", "--help")[1]
    assert "--from" in shown
    assert "--start" not in shown
    for spelling in ("--sql", "--set", "--expression"):
        for command in (("backfill",), ("features", "add", "x")):
            status, _, err = _run(app, *command, "--dataset", "d", spelling, "no-equals-sign")
            assert (status, "the option --sql cannot be read" in err) == (2, True), (command, spelling)


# Run in one process that has no Spark.
_WITHOUT_SPARK = """
import sys

for name in ("pyspark", "py4j", "torch"):
    sys.modules[name] = None

from typer.testing import CliRunner
from dedup_storage.cli import app

COMMANDS = [
    "datasets list", "datasets describe clicks", "versions list --dataset clicks",
    "versions pin 1 --label kept --dataset clicks", "versions unpin kept --dataset clicks",
    "features list --dataset clicks", "sample list --dataset clicks", "datasets rename clicks views",
    "datasets drop views --yes", "datasets list",
]
# What cannot be shown is told before anything is measured.
done = CliRunner().invoke(app, "report --dataset clicks --batch 5".split())
assert (done.exit_code, "the package torch is not installed" in done.stderr, done.stdout) == (2, True, ""), done.output
for line in COMMANDS:
    done = CliRunner().invoke(app, line.split())
    assert done.exit_code == 0, (line, done.output, done.exception)
    print(done.stdout)
"""


def test_lists_descriptions_and_pins_need_no_spark(tmp_path: Path) -> None:
    from tests.reader.lake import Lake, make_log

    warehouse = tmp_path / "warehouse"
    Lake(Settings(warehouse=str(warehouse))).write("clicks", make_log(users=2, requests_per_user=2))
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_SPARK],
        env={**os.environ, "DEDUP_STORAGE_WAREHOUSE": str(warehouse), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for part in ("requests 4, impressions", "Pinned version 1 of clicks", "Feature groups of clicks: none",
                 "Renamed clicks to views", "Dropped views", f"Datasets in {warehouse} (iceberg): none"):  # fmt: skip
        assert part in done.stdout


def test_tune_says_whether_it_changed_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.reader.lake import Lake, make_log

    monkeypatch.setenv("DEDUP_STORAGE_WAREHOUSE", str(tmp_path))
    Lake(Settings(warehouse=str(tmp_path))).write("clicks", make_log(users=2, requests_per_user=2))
    status, _, err = _run(app, "tune", "--dataset", "clicks", "--tolerance", "1000")
    assert status == 0
    assert re.search(r"Nothing was changed; --apply sets this on \w+", err)


def test_a_drop_is_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEDUP_STORAGE_WAREHOUSE", str(tmp_path / "warehouse"))
    status, _, err = _run(app, "datasets", "drop", "clicks")
    assert status == 2
    assert "expected --yes" in err
    assert "no dataset clicks" in _run(app, "datasets", "drop", "clicks", "--yes")[2]


def test_a_missing_dataset_shows_where_it_was_looked_for(tmp_path: Path) -> None:
    config = tmp_path / "my.yaml"
    config.write_text(f"warehouse: {tmp_path}/lake\n")
    for command in ("versions list", "features list", "sample list", "check", "maintain"):
        status, _, err = _run(app, *command.split(), "--dataset", "clicks", "--config", str(config))
        assert status == 2
        assert f"warehouse {tmp_path}/lake" in err
        assert f"settings: {config}" in err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("the file a.parquet is torn", fix="Replace it."), 2),
        (QualityGateError("refused"), 3),
        (ConflictError("another run was faster"), 1),
        (DedupStorageError("broken"), 1),
        (RuntimeError("first line\nsecond line"), 1),
        (KeyboardInterrupt(), 130),
        (ModuleNotFoundError("No module named 'pyspark'", name="pyspark"), 2),
    ],
)
def test_each_error_is_one_message_and_its_status(error: BaseException, status: int) -> None:
    code, out, err = _run(_toy(error))
    assert code == status
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_message_of_our_errors_is_theirs() -> None:
    error = InputError("the file a.parquet is torn", expected="Parquet", got="text", fix="Replace it.")
    assert _run(_toy(error))[2] == f"error: {error}\n"


def test_missing_package_names_its_extra() -> None:
    error = ModuleNotFoundError("No module named 'great_expectations.core'", name="great_expectations.core")
    assert "pip install 'dedup_storage[quality]'" in _run(_toy(error))[2]


def test_debug_shows_the_trace() -> None:
    _, _, err = _run(_toy(RuntimeError("boom")), "--debug")
    assert "Traceback" in err
    assert "boom" in err


def test_markup_in_messages_is_printed_as_it_is() -> None:
    assert "[red]x[/red] [/]" in _run(_toy(InputError("[red]x[/red] [/]")))[2]


def test_json_to_a_file_and_to_standard_output(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "summary.json"
    status, out, _ = _run(_toy(), "--json", str(file), "--name", "a")
    assert status == 0
    assert "1.5 kB" in out
    assert jsonlib.loads(file.read_text())["name"] == "a"
    _, out, _ = _run(_toy(), "--json", "-", "--name", "b")
    assert jsonlib.loads(out) == {"name": "b", "warehouse": "warehouse", "stored_bytes": 1500}


def test_quiet_prints_errors_alone(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    assert _run(_toy(), "--quiet", "--json", str(file), "--name", "a") == (0, "", "")
    assert jsonlib.loads(file.read_text())["name"] == "a"
    assert jsonlib.loads(_run(_toy(), "-q", "--json", "-")[1])["stored_bytes"] == 1500
    error = InputError("the file a.parquet is torn")
    assert _run(_toy(error), "--quiet") == (error.exit_code, "", f"error: {error}\n")
    # The next command speaks again.
    assert "1.5 kB" in _run(_toy())[1]


def test_variables_of_options_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever variable an option reads stands beside the settings' own."""
    root = typer.main.get_command(app)
    found, open_commands = set[str](), [root]
    while open_commands:
        command = open_commands.pop()
        open_commands += getattr(command, "commands", {}).values()
        found |= {p.envvar for p in command.params if isinstance(getattr(p, "envvar", None), str)}
    assert {"DEDUP_STORAGE_QUIET", "DEDUP_STORAGE_CONFIG"} <= found
    assert load_settings(default_config(), dict.fromkeys(found, "1")) == load_settings(None, {})
    monkeypatch.setenv("DEDUP_STORAGE_QUIET", "1")
    assert _run(_toy(), "--name", "a") == (0, "", "")


def test_unwritable_json_is_told_before_anything_is_done(tmp_path: Path) -> None:
    """A command that had published its version failed at its summary."""
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "x.json", tmp_path):
        status, out, err = _run(_toy(), "--json", str(place))
        assert (status, out) == (1, "")
        assert "cannot be written" in err
    assert _run(_toy(), "--json", str(tmp_path / "new" / "x.json"))[0] == 0


def test_settings_come_from_config_then_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "my.yaml"
    config.write_text("warehouse: from-file\n")
    assert '"from-file"' in _run(_toy(), "--json", "-", "--config", str(config))[1]
    monkeypatch.setenv("DEDUP_STORAGE_CONFIG", str(config))
    assert '"from-file"' in _run(_toy(), "--json", "-")[1]
    monkeypatch.setenv("DEDUP_STORAGE_WAREHOUSE", "from-env")
    assert '"from-env"' in _run(_toy(), "--json", "-")[1]


def test_unknown_setting_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "my.yaml"
    config.write_text("warehose: x\n")
    status, _, err = _run(_toy(), "--config", str(config))
    assert status == 2
    assert "warehose" in err


def test_local_configuration_wins_over_the_packaged_one(tmp_path: Path) -> None:
    packaged = default_config()
    assert packaged.is_file()
    assert packaged != Path("conf/local.yaml")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "local.yaml").write_text("{}")
    assert default_config() == Path("conf/local.yaml")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["write"],
        ["write", "log"],
        ["write", "log", "--dataset", "d", "--mode", "upsert"],
        ["write", "log", "--dataset", "d", "--buckets", "0"],
        ["versions", "pin", "zero", "--dataset", "d"],
        ["versions", "rollback", "0", "--dataset", "d"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    status, _, err = _run(app, *arguments)
    assert status == 2
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        (["write", "log", "--dataset", "x; drop table y"], "cannot be used"),
        (["write", "log", "--dataset", "d", "--layout", "flat"], "the layout of an existing dataset cannot be given"),
        (["write", "log", "--dataset", "d", "--schema", "none.yaml"], "none.yaml cannot be read"),
        (["write", "log", "--dataset", "d", "--schema", "typo.yaml"], "the key usr is unknown"),
        (["versions", "list", "--dataset", "nothing_here"], "nothing_here"),
        # No option is ever ignored in silence.
        (["report", "--raw", "x", "--dataset", "d", "--threshold", "0.1"], "--threshold does nothing beside --raw"),
        (["report", "--dataset", "d", "--threshold", "0.1"], "nothing is compared: --threshold counts beside"),
        (["report", "--dataset", "d", "--schema", "s"], "--schema does nothing beside --dataset"),
        (["report", "--input", "x", "--schema", "s", "--version", "3"], "--version does nothing beside --input"),
        (["report", "--dataset", "d", "--no-baselines", "--spark"], "--spark does nothing beside --no-baselines"),
        (["report", "--dataset", "d", "--scratch", "x"], "--scratch does nothing without --spark"),
        (["estimate", "x", "--schema", "s", "--scratch", "x"], "--scratch does nothing without --spark"),
        (["estimate", "x", "--schema", "s", "--share", "1", "--precision", "0.1"], "--precision does nothing beside"),
        (["tune", "--dataset", "d", "--share", "1", "--sample-mib", "9"], "--sample-mib does nothing beside --share"),
        (["features", "add", "x", "--dataset", "d", "--sql", "a=1", "--on", "a=b"], "--on does nothing without --join"),
        (
            ["backfill", "--dataset", "d", "--all", "--sql", "a=1", "--sql", "a=2"],
            "the option --sql is given twice for a",
        ),
        (["infer-schema", "log.csv"], "the request column is not named, and no column looks like one"),
        (
            ["infer-schema", "log.csv", "--user", "user_id", "--request", "item_id", "--item", "iten_id"],
            "the column iten_id is not in log.csv",
        ),
        (["infer-schema", "day.parquet", "--request", "rid"], "the column rid is not in day.parquet"),
        (["infer-schema", "day.parquet", "--request", "r", "--label", "clik"], "the column clik is not in day.parquet"),
        (["infer-schema", "day.parquet", "--request", "r", "--event-time", "t"], "the column t is not in day.parquet"),
        (["infer-schema", "day.parquet", "--request", "r", "--item", "price"], "the item price has a type that cannot"),
        (["generate", "out", "--set", "itms=5"], "the key itms is unknown"),
        (["generate", "out", "--set", "items"], "NAME=VALUE"),
        (["generate", "out", "--preset", "hugh"], "the preset hugh does not exist"),
    ],
)
def test_wrong_input_is_refused_before_spark_starts(
    arguments: list[str], needle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "typo.yaml").write_text(SCHEMA.replace("user:", "usr:"))
    (tmp_path / "log.csv").write_text("user_id,item_id\n1,2\n1,3\n")
    rows = {"user_id": [1, 1, 2], "r": [5, 5, 6], "item_id": [2, 3, 4], "price": [1.5, 2.5, 3.5]}
    pq.write_table(pa.table(rows), tmp_path / "day.parquet")

    def never(*_: object, **__: object) -> None:
        pytest.fail("Spark was started")

    monkeypatch.setattr("dedup_storage.cli.runtime.local_spark", never)
    status, _, err = _run(app, *arguments)
    assert status == 2
    assert needle in err
    assert "Traceback" not in err


def test_a_column_that_the_dataset_has_not_is_told_before_spark_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.reader.lake import Lake, make_log

    monkeypatch.setenv("DEDUP_STORAGE_WAREHOUSE", str(tmp_path / "warehouse"))
    Lake(Settings(warehouse=str(tmp_path / "warehouse"))).write("clicks", make_log(users=2, requests_per_user=2))
    monkeypatch.setattr("dedup_storage.cli.runtime.local_spark", lambda *_, **__: pytest.fail("Spark was started"))
    for arguments, needle in (
        (("backfill", "--sql", "prise=1", "--all"), "has the column prise"),
        (("backfill", "--sql", "price=1", "--sql", "age=1", "--all"), "one backfill rewrites one table"),
        (("backfill", "--rows", "new.parquet", "--column", "event_time"), "it decides where a row lies"),
        (("late-labels", "late.parquet", "--label", "price", "--time", "at"), "the column price is no label"),
    ):
        status, _, err = _run(app, *arguments, "--dataset", "clicks")
        assert (status, needle in err) == (2, True), err


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("stored_bytes", 999, "999 B"),
        ("stored_bytes", 1_500_000, "1.5 MB"),
        ("stored_bytes_before", 1_500_000, "1.5 MB"),
        ("bytes_per_row", 1_500, "1,500"),
        ("wall_seconds", 2, "2.0 s"),
        ("rows", 1_234_567, "1,234,567"),
        ("snapshots", {"requests": 2_795_414_293_619_954_363}, "requests: 2795414293619954363"),
        ("passed", True, "yes"),
        ("ratio", 2.5, "2.50"),
        ("docs", None, "-"),
        ("seconds", {"stage": 1.25}, "stage: 1.2 s"),
        ("dates", ["a", "b"], "a, b"),
        ("dates", [], "-"),
    ],
)
def test_values_are_shown_with_their_unit(name: str, value: object, text: str) -> None:
    assert format_value(name, value) == text


def test_lists_of_rows_become_tables(capsys: pytest.CaptureFixture[str]) -> None:
    show_summary("Wrote d", {"rows": 3, "tables": [{"table": "requests", "bytes": 2_000}]})
    out = capsys.readouterr().out
    assert "Wrote d" in out
    assert "Tables" in out
    assert "2.0 kB" in out


def test_a_summary_inside_a_summary_is_no_cell(capsys: pytest.CaptureFixture[str]) -> None:
    inner = {"version": 7, "strategies": {"merge-on-read": 4}, "quantities": [{"quantity": "rows", "planned": 5}]}
    facts = {f"fact_{number}": number for number in range(5)}
    show_summary("Merged", {"rows": {"a": 1, "b": 2}, "backfill": inner, "facts": facts, "seconds": {"plan": 1.25}})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for line in ("rows a: 1, b: 2", "seconds plan: 1.2 s", "Backfill", "version 7", "Quantities", "rows 5", "fact 4 4"):
        assert line.split() in lines
    assert not any("{" in word or "backfill" in word for line in lines for word in line)


def test_brackets_and_colons_of_data_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    show_table("Rows of [bold]", ("column", "row [1]"), [("[viewed]", "[htl_1, htl_2]"), (":car:", "[/x]")])
    shown = capsys.readouterr().out
    for text in ("Rows of [bold]", "row [1]", "[viewed]", "[htl_1, htl_2]", ":car:", "[/x]"):
        assert text in shown


def _settings(place: Path, **catalog: object) -> str:
    """A settings file of a lake that nobody answers at, with Spark's packages."""
    config = place / "settings.yaml"
    spark = {"packages": ["org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0"]}
    values = {"warehouse": "prod", "catalog": {"type": "rest", "uri": "http://127.0.0.1:9", **catalog}, "spark": spark}
    config.write_text(jsonlib.dumps(values if catalog else {"spark": spark}), encoding="utf-8")
    return str(config)


@pytest.mark.parametrize(
    "command",
    [
        ("write", "s3://logs/day", "--schema", "schema.yaml"),
        ("backfill", "--all", "--sql", "y=1"),
        ("late-labels", "s3://logs/labels", "--label", "y", "--time", "t"),
        ("features", "add", "g", "--sql", "g=1"),
        ("sample", "materialise", "s", "--into", "other"),
    ],
)
def test_a_gate_without_a_folder_is_told_before_a_log_or_a_catalog_is_asked(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "schema.yaml").write_text(SCHEMA, encoding="utf-8")
    config = _settings(tmp_path, properties={"s3.region": "eu-north-1"})
    status, _, err = _run(app, *command, "--dataset", "clicks", "--config", config)
    assert (status, "quality.docs is missing" in err) == (2, True), err


@pytest.mark.parametrize(
    "command",
    [
        ("write", "s3://logs/day", "--schema", "schema.yaml", "--dataset", "clicks"),
        ("adopt", "s3a://logs/day", "--schema", "schema.yaml", "--dataset", "clicks"),
        ("infer-schema", "s3://logs/day"),
        ("estimate", "s3://logs/day", "--schema", "schema.yaml", "--spark"),
        ("late-labels", "s3://logs/labels", "--label", "y", "--time", "t", "--dataset", "clicks"),
        ("forget-user", "--users-table", "s3://logs/users", "--dataset", "clicks"),
    ],
)
def test_a_package_that_reads_a_log_is_told_before_the_log_is_asked(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(SCHEMA, encoding="utf-8")
    status, _, err = _run(app, *command, "--config", _settings(tmp_path))
    assert (status, "org.apache.hadoop:hadoop-aws" in err) == (2, True), err


def test_an_explanation_takes_no_option_that_it_would_ignore() -> None:
    for given in (("--exchange", "one-side"), ("--hash-side", "right"), ("--output", "rows")):
        status, _, told = _run(app, "join", "--dataset", "clicks", "--explain", *given)
        assert status == 2
        assert f"{given[0]} does nothing beside --explain" in " ".join(told.split())


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        (
            ["report", "--dataset", "d", "--no-baselines", "--share", "0.1"],
            "--share does nothing beside --no-base",
        ),
        (["report", "--dataset", "d", "--no-baselines", "--spark"], "--spark does nothing beside --no-baselines"),
        (["features", "add", "g", "--dataset", "d", "--sql", "a=1", "--on", "a=b"], "--on does nothing without --join"),
        (["features", "add", "g", "--dataset", "d", "--sql", "a=1", "--sql", "a=2"], "--sql is given twice for a"),
        (["sample", "split", "--dataset", "d", "--share", "a=0.1", "--share", "a=0.2"], "--share is given twice for a"),
        (["sample", "split", "--dataset", "d", "--dates", "a=:", "--dates", "a=:"], "--dates is given twice for a"),
        (["sample", "split", "--dataset", "d", "--dates", "a=:", "--seed", "3"], "--seed does nothing without --share"),
        (
            ["sample", "create", "s", "--dataset", "d", "--from", "2024-01-02", "--start", "2024-01-03"],
            "--start does nothing beside --from",
        ),
        (["report", "--dataset", "d", "--sample", "s", "--sample-mib", "9"], "--sample-mib does nothing beside"),
        (["backfill", "--dataset", "d", "--all", "--where", "a=1", "--sql", "a=1"], "--all does nothing beside"),
        (["backfill", "--dataset", "d", "--all", "--sql", "a=1", "--column", "b"], "--column does nothing beside"),
        (["generate", "out", "--users", "3", "--set", "users=4"], "--users does nothing beside --set users"),
        (["generate", "out", "--set", "items=3", "--set", "items=4"], "--set is given twice for items"),
        (["maintain", "--dataset", "d", "--runs-share", "0.3"], "runs_share (--runs-share) changes nothing: it counts"),
        (
            ["maintain", "--dataset", "d", "--only", "expire", "--hidden-share", "0.3", "--keep-days", "0"],
            "hidden_share (--hidden-share) changes nothing: it counts in the step compact, which is not taken",
        ),
    ],
)
def test_no_option_counts_for_nothing(arguments: list[str], needle: str) -> None:
    status, _, told = _run(app, *arguments)
    assert status == 2
    assert needle in " ".join(told.split())
