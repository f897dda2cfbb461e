"""The doctor without Spark: what it finds in catalogs and stores that fall short, and that it leaves nothing behind."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dedup_storage.cli import app
from dedup_storage.cli.runtime import _start_failure
from dedup_storage.config import CatalogSettings, CatalogType, QualitySettings, Settings, SparkSettings
from dedup_storage.doctor import packages, store
from dedup_storage.doctor.examine import Diagnosis, examine
from dedup_storage.doctor.machine import find_java, named_jars, take_machine
from dedup_storage.doctor.packages import extra_found, fits
from dedup_storage.lake.hiding import secrets_of
from dedup_storage.lake.probing import Finding, Probes, State
from tests.reader.lake import Lake, make_log
from tests.rest_catalog import RestCatalog

TAGS, WRITERS = "catalog: tags and snapshots", "catalog: two writers"


def states(found: Diagnosis) -> dict[str, str]:
    """Every probe's state, those of this environment's packages left out."""
    return {p.name: p.state.value for p in found.probes if not p.name.startswith(("Python", "packages"))}


def rest(catalog: RestCatalog, **more: Any) -> Settings:
    """Settings of a lake in a REST catalog."""
    return Settings(
        warehouse=str(catalog.folder), catalog=CatalogSettings(name="rest", type="rest", uri=catalog.uri, **more)
    )


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# -- local lakes --------------------------------------------------------------------------------------------------

_AROUND = {
    "jars for Spark": "ok", "folder for verdicts": "ok", "table format": "ok", "store: write": "ok",
    "store: read": "ok", "store: list": "ok", "store: delete": "ok", "clock": "ok", "Spark starts": "not-needed",
    "nothing is left behind": "ok",
}  # fmt: skip
_ICEBERG = {
    **_AROUND, "catalog answers": "ok", "catalog: namespace": "ok", "catalog: table": "ok", TAGS: "ok", WRITERS: "ok",
    "catalog: all tables in one commit": "not-needed", "catalog: keys of the store": "not-needed",
    "store: conditional put": "not-needed",
}  # fmt: skip
_DELTA = {**_AROUND, "catalog": "not-needed", "store: conditional put": "ok"}


@pytest.mark.parametrize(("table_format", "expected"), [("iceberg", _ICEBERG), ("delta", _DELTA)])
def test_an_empty_folder_stays_empty(
    table_format: str, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEDUP_STORAGE_FORMAT", table_format)
    # As in a process of its own: tests that ran before in this one may have left their session running.
    monkeypatch.setattr("dedup_storage.doctor.examine._session_runs", lambda: False)
    done = CliRunner().invoke(app, ["doctor", "--no-spark", "--json", "-"])
    assert done.exit_code == 0, done.output
    found = Diagnosis.model_validate_json(done.stdout)
    assert states(found) == expected
    assert (found.format, found.warehouse) == (table_format, str(tmp_path / "warehouse"))
    assert found.missing == ()
    assert all(probe.seconds >= 0 for probe in found.probes)
    assert list(tmp_path.iterdir()) == []
    shown = CliRunner().invoke(app, ["doctor", "--no-spark"])
    assert f"{table_format} in {tmp_path}/warehouse (settings: the embedded defaults" in shown.stdout


@pytest.mark.parametrize("table_format", ["iceberg", "delta"])
def test_datasets_are_not_touched(table_format: str, tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse"
    Lake(Settings(warehouse=str(warehouse))).write("clicks", make_log(users=2, requests_per_user=2))
    before = content(warehouse)
    found = examine(Settings(warehouse=str(warehouse), format=table_format))
    assert states(found) == (_ICEBERG if table_format == "iceberg" else _DELTA)
    after = content(warehouse)
    # SQLite's own file counts what was written to it.
    assert {k: v for k, v in after.items() if k != "catalog.db"} == {
        k: v for k, v in before.items() if k != "catalog.db"
    }
    assert Lake(Settings(warehouse=str(warehouse))).catalog.list_namespaces() == [("clicks",)]


_STORE = ["store: write", "store: read", "store: list", "clock", "store: delete"]
_CATALOG = ["catalog answers", "catalog: namespace", "catalog: table", TAGS, WRITERS,
            "catalog: all tables in one commit", "catalog: keys of the store"]  # fmt: skip


@pytest.mark.parametrize(
    ("table_format", "missing"), [("iceberg", [*_STORE, *_CATALOG]), ("delta", [*_STORE, "store: conditional put"])]
)
def test_a_store_that_cannot_be_written(table_format: str, missing: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    config = tmp_path / "my.yaml"
    config.write_text(f"warehouse: {tmp_path}/file/lake\nformat: {table_format}\n")
    done = CliRunner().invoke(app, ["doctor", "--no-spark", "--config", str(config), "--json", "-"])
    assert done.exit_code == 1
    found = {p["name"]: p for p in json.loads(done.stdout)["probes"]}
    assert [name for name, p in found.items() if p["state"] == "missing"] == missing
    first = found[missing[0]]
    assert "Not a directory" in first["found"]
    assert first["remedy"]
    assert found["store: read"]["found"] == "not tried: it needs store: write"
    told = f"something needed is missing (store: write); {len(missing) - 1} probes were not tried for lack of it."
    assert f"error: {told} What to do stands beside each probe." in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "my.yaml"]


# -- catalogs that fall short -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flaw", "tags", "writers"),
    [
        ({}, ("ok", "kept"), ("ok", "the second one was refused")),
        ({"loses_tags": True}, ("missing", "a tag was committed and is not there"), None),
        ({"refuses_tags": True}, ("missing", "BadRequestError: BadRequestException: this catalog has no tags"), None),
        ({"newest_only": True}, ("missing", "only a table's newest snapshot is kept"), None),
        ({"careless": True}, ("ok", "kept"), ("missing", "both were told that they came first")),
    ],
)
def test_a_rest_catalog(
    flaw: dict[str, bool], tags: tuple[str, str], writers: tuple[str, str] | None, tmp_path: Path
) -> None:
    # Its folder is the server's: only what a table adds to it has to go again.
    with RestCatalog(tmp_path, **flaw) as catalog:
        found = {p.name: p for p in examine(rest(catalog)).probes}
    assert (found[TAGS].state.value, found[TAGS].found) == tags
    assert bool(found[TAGS].remedy) == (tags[0] == "missing")
    not_tried = ("missing", f"not tried: it needs {TAGS}")
    assert (found[WRITERS].state.value, found[WRITERS].found) == (writers or not_tried)
    assert found["catalog: all tables in one commit"].state is State.NOT_NEEDED
    assert found["catalog: keys of the store"].state is State.NOT_NEEDED
    assert found["nothing is left behind"].state is State.OK
    assert (catalog.tables, catalog.namespaces, list(tmp_path.iterdir())) == ({}, {}, [])


def test_what_a_rest_catalog_offers_is_told_and_no_secret_is_shown(tmp_path: Path) -> None:
    handed = {"s3.access-key-id": "handed-id", "s3.session-token": "handed-token",
              "s3.session-token-expires-at-ms": "1900000000000"}  # fmt: skip
    with RestCatalog(tmp_path, transactions=True, config=handed) as catalog:
        own = {"token": "the-bearer-token", "properties": {"s3.secret-access-key": "the-key"}}
        found = examine(rest(catalog, **own))
    by_name = {p.name: p for p in found.probes}
    assert by_name["catalog: all tables in one commit"].found.startswith("offered; whether it keeps its word")
    keys = by_name["catalog: keys of the store"].found
    assert keys.startswith("handed out by the catalog for ")
    assert keys.endswith(" s: s3.access-key-id, s3.session-token")
    for secret in ("handed-id", "handed-token", "the-bearer-token", "the-key"):
        assert secret not in found.model_dump_json()


def test_what_cannot_be_removed_is_named(tmp_path: Path) -> None:
    with RestCatalog(tmp_path, keeps_tables=True) as catalog:
        found = {p.name: p for p in examine(rest(catalog)).probes}
        (namespace,) = catalog.namespaces
        left = found["nothing is left behind"]
        assert (left.state, left.found) == (
            State.WARNING, f"could not be removed: the namespace {namespace} (ForbiddenError)",
        )  # fmt: skip
        again = {p.name: p for p in examine(rest(catalog)).probes}["catalog answers"]
        assert again.state is State.WARNING
        assert f"it holds {namespace}, of a doctor that was stopped or is at work" in again.found


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*given: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("dedup_storage.doctor.store.read_text", interrupt)
    with RestCatalog(tmp_path) as catalog:
        with pytest.raises(KeyboardInterrupt):
            examine(rest(catalog))
        assert (catalog.tables, catalog.namespaces, list(tmp_path.iterdir())) == ({}, {}, [])
    for table_format in ("iceberg", "delta"):
        with pytest.raises(KeyboardInterrupt):
            examine(Settings(warehouse=str(tmp_path / "lake"), format=table_format))
        assert list(tmp_path.iterdir()) == []


def test_a_catalog_that_does_not_answer(tmp_path: Path) -> None:
    with RestCatalog(tmp_path) as catalog:
        settings = rest(catalog)
    found = {p.name: p for p in examine(settings).probes}
    assert found["catalog answers"].state is State.MISSING
    assert found["catalog answers"].remedy is not None
    assert found["store: write"].found == "only the catalog knows where tables lie, and it did not say"


# -- stores -------------------------------------------------------------------------------------------------------


def test_a_store_that_overwrites_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the mark that claims carry, the second of two writers is let through, as by a store without conditions.
    monkeypatch.setattr("dedup_storage.lake.delta.probes._once", lambda: None)
    found = {p.name: p for p in examine(Settings(warehouse=str(tmp_path), format="delta")).probes}
    put = found["store: conditional put"]
    assert (put.state, put.found) == (
        State.MISSING, "of two writers of one version both were told that they came first",
    )  # fmt: skip
    assert put.remedy is not None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("offset", "told"), [(0, "0 s apart"), (600, "the store's is 600 s behind this machine's")])
def test_clocks(offset: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = store.time.time()
    monkeypatch.setattr("dedup_storage.doctor.store.time.time", lambda: now + offset)
    probes = Probes()
    store.take_store(str(tmp_path), {}, probes)
    found = probes.taken["clock"]
    assert found.state is (State.WARNING if offset else State.OK)
    assert found.found.replace("601", "600").replace("599", "600") == told


# -- the machine --------------------------------------------------------------------------------------------------


def _java(folder: Path, version: str) -> dict[str, str]:
    program = folder / version / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"JAVA_HOME": str(program.parents[1])}


@pytest.mark.parametrize(
    ("version", "state", "told"),
    [
        ("17.0.15", "ok", "17.0.15 in JAVA_HOME"),
        ("21", "ok", "21 in JAVA_HOME"),
        ("1.8.0_402", "missing", "is too old"),
        ("11.0.2", "missing", "is too old"),
        ("24-ea", "missing", "which Spark does not support yet"),
    ],
)
def test_java(version: str, state: str, told: str, tmp_path: Path) -> None:
    found = find_java(_java(tmp_path, version))
    assert found.state.value == state
    assert told in found.found
    assert (found.remedy is None) == (state == "ok")


def test_without_java_spark_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(settings: Settings) -> AbstractContextManager[Any]:
        raise AssertionError("started")

    monkeypatch.setattr("dedup_storage.doctor.examine._session_runs", lambda: False)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    found = {p.name: p for p in examine(Settings(warehouse=str(tmp_path / "lake")), start).probes}
    assert (found["Java"].state, found["Java"].found) == (
        State.MISSING, f"none is there in JAVA_HOME ({tmp_path}/nowhere)",
    )  # fmt: skip
    assert found["Java"].remedy == "Install Java 17 or 21, and set JAVA_HOME or put java on the PATH."
    assert (found["Spark starts"].state, found["Spark starts"].found) == (
        State.MISSING, "not tried: it needs Java",
    )  # fmt: skip
    assert found["catalog: two writers"].state is State.OK
    assert find_java({"PATH": str(tmp_path)}).found == "none is there on the PATH"


def _named(*packages_named: str, conf: dict[str, str] | None = None, **more: Any) -> Finding:
    return named_jars(Settings(spark=SparkSettings(packages=packages_named, conf=conf or {}), **more))


_RUNTIME, _SQLITE = "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0", "org.xerial:sqlite-jdbc:3.50.3.0"


def test_jars_that_the_settings_name() -> None:
    assert _named(_RUNTIME, _SQLITE) == Finding("iceberg-spark-runtime-4.1_2.13 1.12.0, sqlite-jdbc 3.50.3.0")
    assert _named() == Finding("the settings name none: the cluster has to bring its own")
    assert _named(_RUNTIME, format="delta").state is State.OK
    other = _named(_RUNTIME.replace("4.1_", "4.0_"), _SQLITE)
    assert other.state is State.MISSING
    assert other.found == (
        f"spark.packages does not name {_RUNTIME} for Iceberg "
        "(it names org.apache.iceberg:iceberg-spark-runtime-4.0_2.13, for another Spark)"
    )
    assert _named(_RUNTIME, conf={"spark.jars": "/jars/sqlite.jar"}).state is State.WARNING
    older = _named(_RUNTIME.replace("1.12.0", "1.9.0"), _SQLITE)
    assert (older.state, older.remedy) == (State.WARNING, f"Tried was {_RUNTIME}.")
    cloud = CatalogSettings(type="jdbc", uri="postgresql://db/iceberg")
    found = _named(_RUNTIME, warehouse="s3://logs/lake", catalog=cloud).found
    assert "org.postgresql:postgresql:42.7.7 for the PostgreSQL catalog" in found
    assert "org.apache.iceberg:iceberg-aws-bundle:1.12.0 for the store" in found


def test_a_jar_that_no_repository_has_is_named(tmp_path: Path) -> None:
    log = tmp_path / "spark.log"
    log.write_text(
        "\t\t::          UNRESOLVED DEPENDENCIES         ::\n"
        "\t\t:: org.apache.iceberg#iceberg-spark-runtime-4.1_2.13;9.9.9: not found\n" * 2
    )
    error = _start_failure(log, RuntimeError("Java gateway process exited"))
    assert error.what == (
        "Spark's packages could not be downloaded: org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:9.9.9"
    )


@pytest.mark.parametrize(
    ("version", "spec", "held"),
    [("4.1.4", "==4.1.4", True), ("4.1.4", "==4.1", False), ("1.6.6", "<2,>=1.0", True), ("2.0", "<2,>=1.0", False),
     ("3.0.0", ">=2.2", True), ("2.15.0+cu130", ">=2.4", True), ("1.0", "", True), ("18", "!=18.0", False)],
)  # fmt: skip
def test_versions_and_bounds(version: str, spec: str, held: bool) -> None:
    assert fits(version, spec) is held


def test_packages_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ['alpha==1.2; extra == "spark"', 'beta[x]<3,>=2; extra == "spark"', 'gamma; extra == "other"']
    there = {"alpha": "1.3", "beta": "2.5"}

    def version(name: str) -> str:
        if name not in there:
            raise metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(packages.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(packages.metadata, "version", version)
    assert extra_found("spark") == Finding(
        "alpha 1.3 (==1.2 is what was tried)", State.WARNING, "Run pip install 'dedup_storage[spark]'."
    )
    there["alpha"] = "1.2"
    assert extra_found("spark") == Finding("alpha 1.2, beta 2.5")
    del there["beta"]
    assert extra_found("spark") == Finding(
        "not installed: beta", State.MISSING, "Run pip install 'dedup_storage[spark]'."
    )


@pytest.mark.parametrize("state", [State.MISSING, State.WARNING])
def test_verdicts_of_a_remote_warehouse_need_a_folder(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    probes = Probes()
    remote = Settings(warehouse="s3://logs/lake", format="delta")
    take_machine(remote, probes, spark=state is State.MISSING)
    found = probes.taken["folder for verdicts"]
    assert (found.state, found.found) == (state, "quality.docs is missing")
    places = {
        tmp_path / "new": f"{tmp_path}/new",
        f"file://{tmp_path}/new": f"{tmp_path}/new",
        tmp_path / "file" / "in": "nothing can be written to",
        # It was taken for a folder of the working directory.
        "s3://logs/docs": "quality.docs is not a local directory",
    }
    for docs, told in places.items():
        (tmp_path / "file").write_text("no folder")
        given = remote.model_copy(update={"quality": QualitySettings(docs=str(docs))})
        take_machine(given, probes, spark=False)
        assert probes.taken["folder for verdicts"].found.startswith(told)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# -- results ------------------------------------------------------------------------------------------------------


def test_failures_are_results_without_secrets() -> None:
    settings = Settings.model_validate(
        {
            "catalog": {
                "password": "p@ss word",
                "credential": "client:very-secret",
                "properties": {"a.token": "tok-en"},
            },
            "spark": {"conf": {"spark.hadoop.fs.s3a.secret.key": "hadoop-key"}},
        }
    )
    secrets = secrets_of(
        settings, {"AWS_SESSION_TOKEN": "from-outside", "HOME": "/home/somebody", "X_TOKEN_ON": "true"}
    )

    def raising(text: str) -> Callable[[], Finding]:
        def look() -> Finding:
            raise OSError(text)

        return look

    probes = Probes(secrets)
    shown = {
        "p@ss word and p%40ss+word": "OSError: *** and ***",
        "very-secret of client:very-secret": "OSError: *** of ***",
        "tok-en, hadoop-key, from-outside": "OSError: ***, ***, ***",
        "postgresql://somebody:other@host/db": "OSError: postgresql://***@host/db",
        "/home/somebody is true": "OSError: /home/somebody is true",
    }
    for text, told in shown.items():
        assert not probes.take(text, raising(text), remedy="Use very-secret.")
        assert (probes.taken[text].found, probes.taken[text].remedy) == (told, "Use ***.")
        assert probes.taken[text].state is State.MISSING


@pytest.mark.parametrize(("signs", "there"), [("true", False), ("True", True), ("false", True)])
def test_a_catalog_whose_requests_are_signed_needs_boto3(
    signs: str, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spec(name: str) -> object | None:
        return object() if there else None

    monkeypatch.setattr("importlib.util.find_spec", spec)
    properties = {"rest.sigv4-enabled": signs}
    catalog = CatalogSettings(type=CatalogType.REST, uri="https://catalog", properties=properties)
    probes = Probes()
    take_machine(Settings(warehouse=str(tmp_path), catalog=catalog), probes, spark=False)
    found = probes.taken.get("packages: catalog")
    assert (found is None) == (signs == "false")
    if found is not None:
        assert (found.state is State.MISSING, "boto3" in found.found) == (not there, True)
