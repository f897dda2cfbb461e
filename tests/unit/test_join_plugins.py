"""Plugins that lose rows of joins inside buckets, told by a session's settings, and what the doctor says of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dedup_storage.dataset.joins import plugins
from dedup_storage.dataset.joins.settings import BUCKET_JOIN, UNSAFE
from dedup_storage.doctor.session import take_joins
from dedup_storage.lake.probing import Probes, State

RAPIDS, AURON = "com.nvidia.spark.SQLPlugin", "org.apache.spark.sql.auron.AuronSparkSessionExtension"


def session(**conf: str) -> Any:
    """A session of which only the settings are asked; dots are written as two underscores."""
    given = {**BUCKET_JOIN, **{key.replace("__", "."): value for key, value in conf.items()}}
    return SimpleNamespace(conf=SimpleNamespace(get=lambda key, default=None: given.get(key, default)))


def rapids(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    monkeypatch.setattr(plugins, "rapids_version", lambda spark: version)


@pytest.mark.parametrize(
    ("version", "told"),
    [
        (None, "RAPIDS of an unknown version"), ("25.12.0", "RAPIDS 25.12.0"), ("26.08.0", "RAPIDS 26.08.0"),
        ("26.10.0", None), ("26.10.1", None), ("27.02.0-SNAPSHOT", None),
    ],
)  # fmt: skip
def test_versions_of_rapids(version: str | None, told: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    rapids(monkeypatch, version)
    for key in ("spark__plugins", "spark__sql__extensions"):
        found = plugins.losing_plugins(session(**{key: f"a.b.C,{RAPIDS}"}))
        assert [plugin.told for plugin in found] == ([told] if told else [])
    assert plugins.losing_plugins(session()) == ()


def test_a_plugin_that_is_switched_off_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    rapids(monkeypatch, "25.12.0")
    assert plugins.losing_plugins(session(spark__plugins=RAPIDS, spark__rapids__sql__enabled="false")) == ()
    assert len(plugins.losing_plugins(session(spark__plugins=RAPIDS, spark__rapids__sql__enabled="true"))) == 1
    assert plugins.losing_plugins(session(spark__sql__extensions=AURON, spark__auron__enable="FALSE")) == ()


def test_what_each_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    rapids(monkeypatch, "26.06.0")
    both = plugins.losing_plugins(session(spark__plugins=RAPIDS, spark__sql__extensions=AURON))
    assert [(plugin.loses, plugin.unequal, plugin.remedy) for plugin in both] == [
        ("joins of unequal bucket counts (NVIDIA/cudf-spark#15721)", True,
         "Use RAPIDS 26.10 or newer, or set spark.rapids.sql.enabled to false for this session."),
        ("joins inside buckets (apache/auron#2390)", False, "Set spark.auron.enable to false for this session."),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("classes", "version", "state", "found"),
    [
        ("", None, State.OK, "none that is known to lose rows"),
        (RAPIDS, "26.06.0", State.WARNING, "RAPIDS 26.06.0 loses rows of joins of unequal bucket counts"),
        (RAPIDS, "26.12.0", State.OK, "none that is known to lose rows"),
        (AURON, None, State.MISSING, "Auron of an unknown version loses rows of joins inside buckets"),
        ("org.apache.gluten.GlutenPlugin", None, State.WARNING, "Gluten runs parts of plans in Spark's place"),
    ],
)
def test_the_doctor_tells_of_plugins(
    monkeypatch: pytest.MonkeyPatch, classes: str, version: str | None, state: State, found: str
) -> None:
    rapids(monkeypatch, version)
    probes = Probes()
    take_joins(session(spark__plugins=classes), None, probes)
    assert probes.taken["joins: plugins"].state is state
    assert probes.taken["joins: plugins"].found.startswith(found)
    assert bool(probes.taken["joins: plugins"].remedy) == (state is not State.OK)
    assert (probes.taken["joins: settings"].state, probes.taken["joins: settings"].found) == (
        State.OK, "set in this session",
    )  # fmt: skip


def test_the_doctor_tells_of_settings() -> None:
    def told(**conf: str) -> tuple[State, str]:
        probes = Probes()
        take_joins(session(**conf), None, probes)
        return probes.taken["joins: settings"].state, probes.taken["joins: settings"].found

    key = "spark.sql.requireAllClusterKeysForCoPartition"
    assert told(**{key: "true"}) == (
        State.OK, f"bucket_join sets 1 setting of {len(BUCKET_JOIN)} in a session of its own",
    )  # fmt: skip
    for unsafe in UNSAFE:
        assert told(**{unsafe: "true"}) == (
            State.WARNING, f"this session has {unsafe} on, with which Spark loses rows of joins",
        )  # fmt: skip
