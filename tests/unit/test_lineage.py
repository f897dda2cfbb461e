"""Lineage without Spark: names of places, the events of a run however it ends, and settings that hold a secret."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dedup_storage.config import LineageSettings, Settings, load_settings
from dedup_storage.dataset.lineage import Accounts
from dedup_storage.errors import ConfigError, ConflictError, InputError, MissingDependencyError
from dedup_storage.faults import VARIABLE
from dedup_storage.lineage.journal import Journal, Record
from dedup_storage.lineage.model import Account, ColumnUse, Place, Product, Source, Verb
from dedup_storage.lineage.places import catalog_place, place_of
from dedup_storage.lineage.telling import told
from tests.receiver import Receiver, settled

ROOT = Path(__file__).resolve().parents[2]
SECRET = "k3y-that-nobody-may-see"  # noqa: S105
TABLE = Place("file", "/lake/clicks/requests")


def needs_client() -> None:
    pytest.importorskip("openlineage.client", reason="openlineage-python is not installed (extra lineage)")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    needs_client()
    with Receiver() as running:
        yield running


def settings(receiver: Receiver, folder: Path, **transport: Any) -> Settings:
    lineage = LineageSettings(transport={**receiver.transport, **transport}, namespace="shop")
    return Settings(warehouse=str(folder), lineage=lineage)


def account(version: int) -> Account:
    return Account("day-1", version, products=(Product(Source(TABLE, str(version)), {"user_id": "bigint"}, 3, 99),))


# -- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "namespace", "name"),
    [
        ("/data/logs/", "file", "/data/logs"),
        ("file:///data/a%20b", "file", "/data/a b"),
        ("s3://logs/clicks/day=1/", "s3://logs", "clicks/day=1"),
        (f"s3a://AKIA:{SECRET}@logs/clicks", "s3://logs", "clicks"),
        (f"s3a://AKIA:{SECRET}/+x@logs/clicks", "s3://logs", "clicks"),
        (f"s3://{SECRET}@logs", "s3://logs", "/"),
        (f"https://logs.example.com/clicks?sig={SECRET}#{SECRET}", "https://logs.example.com", "clicks"),
        (f"https://logs.example.com?sig={SECRET}", "https://logs.example.com", "/"),
        ("hdfs://node:8020/logs/a@b", "hdfs://node:8020", "/logs/a@b"),
        ("abfss://logs@shop.dfs.core.windows.net/day=1", "abfss://logs@shop.dfs.core.windows.net", "day=1"),
        ("gcs://logs/day=1", "gs://logs", "day=1"),
    ],
)
def test_places(address: str, namespace: str, name: str) -> None:
    assert place_of(address) == Place(namespace, name)


@pytest.mark.parametrize(
    ("changes", "namespace"),
    [
        ({}, "file:/lake"),
        ({"type": "rest", "uri": f"https://me:{SECRET}@catalog.example.com/api/?key={SECRET}"}, "https://catalog.example.com/api"),
        ({"type": "hive", "uri": "thrift://meta:9083"}, "hive://meta:9083"),
        ({"type": "jdbc", "uri": f"postgresql://me:{SECRET}@db:5432/iceberg"}, "postgres://db:5432/iceberg"),
    ],
)  # fmt: skip
def test_tables_of_catalogs(changes: dict[str, Any], namespace: str) -> None:
    given = Settings.model_validate({"warehouse": "/lake", "catalog": changes})
    assert catalog_place(given, "lake.ref.items") == Place(namespace, "ref.items")
    delta = given.model_copy(update={"format": "delta"})
    assert catalog_place(delta, "ref.items") == Place("file", "/lake/ref/items")


# -- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"type: http\n    url: http://r\n    auth: {{type: api_key, apiKey: {SECRET}}}",
        f"type: http\n    url: http://me:{SECRET}@r",
        f"type: http\n    url: http://r\n    custom_headers: {{Authorization: {SECRET}}}",
        f"type: kafka\n    config: {{sasl.password: {SECRET}}}",
        f"type: http\n    url: http://r\n    auth: {{type: oauth2, client_secret: {SECRET}}}",
        f"type: composite\n    transports: [{{type: http, url: 'https://me:{SECRET}@r'}}]",
    ],
)
def test_secrets_in_a_file_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "conf.yaml"
    file.write_text(f"lineage:\n  transport:\n    {text}\n")
    with pytest.raises(ConfigError, match=r"the secret lineage\.transport") as caught:
        load_settings(file, {})
    assert SECRET not in str(caught.value)


def test_secrets_from_the_environment(tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "conf.yaml"
    lines = f"transport: {{type: http, url: '{receiver.url}', auth: {{type: api_key}}}}"
    file.write_text(f"warehouse: {tmp_path}\nlineage:\n  {lines}\n")
    given = load_settings(file, {"DEDUP_STORAGE_LINEAGE__TRANSPORT__AUTH__API_KEY": SECRET})
    assert SECRET not in repr(given)
    headers = {**given.lineage.transport, "custom_headers": {"Authorization-Also": SECRET}}
    given = given.model_copy(update={"lineage": LineageSettings(transport=headers)})
    with caplog.at_level(logging.DEBUG):
        told(given, Verb("clicks", "write", "day-1"), lambda: 1, account)
    assert SECRET not in caplog.text
    assert [h["Authorization"] for h in receiver.headers] == [f"Bearer {SECRET}"] * 2
    assert not any(SECRET in body for body in receiver.bodies)


def test_settings_that_send_nothing_are_refused(tmp_path: Path) -> None:
    for text, told_so in (("namespace: shop", "transport is missing"), ("transport: {url: x}", "no type")):
        (tmp_path / "conf.yaml").write_text(f"lineage:\n  {text}\n")
        with pytest.raises(ConfigError, match=told_so):
            load_settings(tmp_path / "conf.yaml", {})


def test_a_journal_needs_a_folder() -> None:
    catalog = {"type": "rest", "uri": "http://c"}
    named = Settings.model_validate({"warehouse": "prod", "catalog": catalog})
    with pytest.raises(ConfigError, match=r"lineage\.journal is missing"):
        Journal(named, "clicks")


def test_without_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openlineage.client", None)
    given = Settings(warehouse=str(tmp_path), lineage=LineageSettings(transport={"type": "console"}))
    done: list[int] = []
    with pytest.raises(MissingDependencyError, match=r"pip install 'dedup_storage\[lineage\]'"):
        told(given, Verb("clicks", "write"), lambda: done.append(1), lambda _: account(1))
    assert not done


def test_a_transport_that_openlineage_does_not_take(tmp_path: Path) -> None:
    needs_client()
    given = Settings(warehouse=str(tmp_path), lineage=LineageSettings(transport={"type": "http", "key": SECRET}))
    with pytest.raises(ConfigError, match=r"lineage\.transport of type http") as caught:
        told(given, Verb("clicks", "write"), lambda: 1, account)
    assert SECRET not in str(caught.value)


# -- events -----------------------------------------------------------------------------------------------------


def test_a_run(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = "0190a0b0-0000-7000-8000-000000000000"
    monkeypatch.setenv("OPENLINEAGE_PARENT_ID", f"airflow/prod/daily.write/{parent}")
    read = Source(place_of(f"s3://a:{SECRET}@logs/day=1"))
    uses = {"length": (ColumnUse(TABLE, "hist", True, "TRANSFORMATION"), ColumnUse(TABLE, "user_id", False, "JOIN"))}
    made = replace(account(2).products[0], uses=uses)
    verb = Verb("clicks", "write", "day-1", sources=(read,))

    given = settings(receiver, tmp_path)
    assert told(given, verb, lambda: 7, lambda result: replace(account(2), sources=(read,), products=(made,))) == 7

    start, complete = receiver.events
    assert settled(receiver.events)
    assert receiver.states() == ["START", "COMPLETE"]
    assert {(e["job"]["namespace"], e["job"]["name"]) for e in receiver.events} == {("shop", "clicks.write")}
    assert start["inputs"] == [{"namespace": "s3://logs", "name": "day=1", "facets": {}, "inputFacets": {}}]
    facets = complete["run"]["facets"]
    own = facets["dedupStorage_run"]
    assert {k: v for k, v in own.items() if k[0] != "_"} == {"runId": "day-1", "versionPublished": 2}
    assert facets["parent"]["run"]["runId"] == parent
    assert (facets["parent"]["job"]["namespace"], facets["parent"]["job"]["name"]) == ("airflow/prod", "daily.write")
    (output,) = complete["outputs"]
    assert (output["namespace"], output["name"]) == ("file", "/lake/clicks/requests")
    assert output["facets"]["version"]["datasetVersion"] == "2"
    assert output["facets"]["schema"]["fields"] == [{"name": "user_id", "type": "bigint", "fields": []}]
    counts = output["outputFacets"]["outputStatistics"]
    assert (counts["rowCount"], counts["size"]) == (3, 99)
    fields = output["facets"]["columnLineage"]["fields"]["length"]["inputFields"]
    assert [(f["field"], [(t["type"], t["subtype"]) for t in f["transformations"]]) for f in fields] == [
        ("hist", [("DIRECT", "TRANSFORMATION")]),
        ("user_id", [("INDIRECT", "JOIN")]),
    ]
    assert not list(tmp_path.rglob("*.json"))


def test_a_run_that_fails_and_its_next_attempt(receiver: Receiver, tmp_path: Path) -> None:
    given, verb = settings(receiver, tmp_path), Verb("clicks", "write", "day-1")

    def refused() -> int:
        raise InputError(f"the user {SECRET} occurs twice")

    with pytest.raises(InputError):
        told(given, verb, refused, account)
    told(given, verb, lambda: 1, account)

    assert settled(receiver.events)
    assert receiver.states() == ["START", "FAIL", "START", "COMPLETE"]
    assert receiver.events[1]["run"]["facets"]["errorMessage"]["message"] == "InputError"
    assert not any(SECRET in body for body in receiver.bodies)


def test_an_interrupted_run(receiver: Receiver, tmp_path: Path) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        told(settings(receiver, tmp_path), Verb("clicks", "backfill", "b"), interrupted, account)
    assert settled(receiver.events)
    assert receiver.states() == ["START", "ABORT"]


_KILLED = """
import os, signal, sys
from dedup_storage.config import LineageSettings, Settings
from dedup_storage.lineage.model import Account, Verb
from dedup_storage.lineage.telling import told
given = Settings(warehouse=sys.argv[1], lineage=LineageSettings(transport={"type": "http", "url": sys.argv[2]}))
told(given, Verb("clicks", "write", "day-1"), lambda: 1, lambda _: Account("day-1", 1))
"""


@pytest.mark.parametrize(("point", "resumed"), [("lineage:started", "START"), ("lineage:done", "RUNNING")])
def test_a_killed_run_ends_once(receiver: Receiver, tmp_path: Path, point: str, resumed: str) -> None:
    """Killed before it was noted that START was taken, a run sends it again: better twice than never."""
    given, verb = settings(receiver, tmp_path), Verb("clicks", "write", "day-1")
    command = [sys.executable, "-c", _KILLED, str(tmp_path), receiver.url]
    environ = {**os.environ, VARIABLE: point, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert receiver.states() == ["START"]

    # The version is there: nothing is done now, and what was done is told now.
    told(given, verb, lambda: 1, lambda _: replace(account(1), already=True))
    assert receiver.states() == ["START", resumed, "COMPLETE"]
    assert len({e["run"]["runId"] for e in receiver.events}) == 1
    assert len(receiver.events[-1]["outputs"]) == 1

    # Asked for once more it is another run, which made nothing.
    told(given, verb, lambda: 1, lambda _: replace(account(1), already=True))
    assert receiver.states()[3:] == ["START", "COMPLETE"]
    assert receiver.events[-1]["outputs"] == []
    assert receiver.events[-1]["run"]["facets"]["dedupStorage_run"]["alreadyPublished"] is True


def test_the_same_run_twice_at_once_ends_once(receiver: Receiver, tmp_path: Path) -> None:
    given, verb = settings(receiver, tmp_path), Verb("clicks", "write", "day-1")
    told(given, verb, lambda: told(given, verb, lambda: 1, account), lambda _: replace(account(1), already=True))
    assert settled(receiver.events)
    assert receiver.states() == ["START", "RUNNING", "COMPLETE"]


def test_the_same_run_twice_at_once_and_one_fails(receiver: Receiver, tmp_path: Path) -> None:
    given, verb = settings(receiver, tmp_path), Verb("clicks", "write", "day-1")

    def raced() -> int:
        raise ConflictError("another run came first")

    def work() -> int:
        with pytest.raises(ConflictError):
            told(given, verb, raced, account)
        return 1

    told(given, verb, work, account)
    assert settled(receiver.events)
    assert receiver.states() == ["START", "RUNNING", "FAIL", "START", "COMPLETE"]


# -- trouble ----------------------------------------------------------------------------------------------------


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.startswith("dedup_storage")]


def test_a_receiver_that_is_down_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    needs_client()
    with Receiver() as gone:
        pass
    with caplog.at_level(logging.WARNING):
        assert told(settings(gone, tmp_path), Verb("clicks", "write", "day-1"), lambda: 5, account) == 5
    assert warnings(caplog) == [
        "lineage: the receiver did not take the event START (ConnectionError); the run goes on without it"
    ]


def test_a_receiver_that_refuses(receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    receiver.status = 403
    with caplog.at_level(logging.WARNING):
        told(settings(receiver, tmp_path), Verb("clicks", "write", "day-1"), lambda: 5, account)
    assert warnings(caplog) == [
        "lineage: the receiver did not take the event START (HTTPError, status 403); the run goes on without it"
    ]


def test_a_receiver_that_comes_back(receiver: Receiver, tmp_path: Path) -> None:
    """START is sent with the end where it was not taken at first; an end that was not taken is sent by maintenance."""
    given = settings(receiver, tmp_path)
    receiver.status = 404

    def work() -> int:
        receiver.status = 200
        return 1

    told(given, Verb("clicks", "write", "day-1"), work, account)
    assert settled(receiver.events)
    assert receiver.states() == ["START", "COMPLETE"]

    def leave() -> int:
        receiver.status = 404
        return 2

    told(given, Verb("clicks", "write", "day-2"), leave, account)
    receiver.status = 200
    told(given, Verb("clicks", "maintain", "m"), lambda: 3, lambda _: Account("m"))
    assert settled(receiver.events)
    assert receiver.states("clicks.write") == ["START", "COMPLETE", "START", "COMPLETE"]
    assert not list(tmp_path.rglob("*.json"))


def test_runs_that_nobody_goes_on_with_are_ended(receiver: Receiver, tmp_path: Path) -> None:
    given = settings(receiver, tmp_path)
    journal, (old, new) = Journal(given, "clicks"), (str(uuid.uuid4()), str(uuid.uuid4()))
    for run, days in ((old, 8), (new, 6)):
        begun = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        journal.write(f"{run}.json", Record(run, "clicks.write", begun, started=True))
    # Of another release, which keeps no run from its end.
    for name, text in (("a", '{"run": "r", "more": 1}'), ("b", '{"run": ')):
        (tmp_path / "_lineage" / "clicks" / f"{name}.json").write_text(text)
    told(given, Verb("clicks", "maintain", "m"), lambda: 3, lambda _: Account("m"))
    assert [(e["eventType"], e["run"]["runId"]) for e in receiver.events if e["job"]["name"] == "clicks.write"] == [
        ("ABORT", old)
    ]
    assert {file.name for file in tmp_path.rglob("*.json")} == {f"{new}.json", "a.json", "b.json"}


def test_a_journal_and_an_account_that_fail(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "_lineage").write_text("a file where a folder should be")

    def lost(_: int) -> Account:
        raise ValueError(SECRET)

    with caplog.at_level(logging.WARNING):
        assert told(settings(receiver, tmp_path), Verb("clicks", "write", "day-1"), lambda: 5, lost) == 5
    assert receiver.states() == ["START", "COMPLETE"]
    assert len(warnings(caplog)) == 1
    assert SECRET not in caplog.text


def test_nothing_is_sent_unless_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openlineage.client", None)
    assert told(Settings(warehouse=str(tmp_path)), Verb("clicks", "write"), lambda: 5, account) == 5
    assert not list(tmp_path.iterdir())


def test_a_note_holds_names_alone(tmp_path: Path, receiver: Receiver) -> None:
    given = settings(receiver, tmp_path, auth={"type": "api_key", "apiKey": SECRET})
    seen: list[str] = []
    told(
        given,
        Verb("clicks", "write", "day-1"),
        lambda: seen.extend(f.read_text() for f in tmp_path.rglob("*.json")),
        lambda _: Account(),
    )
    (note,) = map(json.loads, seen)
    assert sorted(note) == ["begun", "ended", "job", "run", "run_id", "started"]
    assert (note["job"], note["run_id"], note["started"]) == ("clicks.write", "day-1", True)


def test_maintenance_is_told_with_the_bundles_that_it_made() -> None:
    def place(name: str, version: int) -> Source:
        return Source(Place("file", name), str(version))

    def made(run_id: str, version: int, *tables: str) -> Account:
        products = tuple(Product(place(table, version)) for table in tables)
        return Account(run_id, version, read=version - 1, sources=(place("requests", version - 1),), products=products)

    runs = {"m-bundle-requests": made("m-bundle-requests", 3, "fb", "fg"), "m": made("m", 4, "fb")}
    tables = SimpleNamespace(
        of_run=lambda run_id, rewrites: runs.get(run_id, Account(run_id)), of_move=lambda run_id, names: runs[run_id]
    )
    accounts = Accounts.__new__(Accounts)
    accounts._tables = tables  # type: ignore[assignment]
    bundle = SimpleNamespace(bundle="requests", groups=("a", "b"))
    found = accounts.maintenance(SimpleNamespace(run_id="m", bundles=(bundle,), runs=()))
    assert (found.run_id, found.version, found.read, [s.version for s in found.sources]) == ("m", 4, 2, ["2", "3"])
    assert [(p.source.place.name, p.source.version) for p in found.products] == [("fb", "4"), ("fg", "3")]
    del runs["m"]
    assert accounts.maintenance(SimpleNamespace(run_id="m", bundles=(bundle,), runs=())).version == 3
    assert accounts.maintenance(SimpleNamespace(run_id="m", bundles=(), runs=())) == Account("m")
    # Lists that were laid anew are a version of their own too.
    runs["m-runs"] = made("m-runs", 4, "requests", "events_g")
    found = accounts.maintenance(SimpleNamespace(run_id="m", bundles=(), runs=(SimpleNamespace(),)))
    assert (found.run_id, found.version, len(found.products)) == ("m", 4, 2)
