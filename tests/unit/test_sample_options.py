"""How ``dedup-storage sample`` reads its options, and what it says without Spark."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from dedup_storage.cli import app
from dedup_storage.cli.sample import _pairs, _strata
from dedup_storage.errors import UsageError
from dedup_storage.sampling.definition import SampleSpec
from tests.reader.lake import Lake, make_log
from tests.reader.test_samples import put


def test_pairs_keep_equals_signs_of_labels() -> None:
    assert _pairs(["country=DK,requests=2=0.5", "*=1"], "share", float) == {"country=DK,requests=2": 0.5, "*": 1.0}
    assert _pairs(None, "share", float) == {}


@pytest.mark.parametrize("text", ["half", "=0.5", "a=b"])
def test_pairs_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="LABEL=NUMBER"):
        _pairs([text], "share", float)


def test_strata_are_columns_measures_and_expressions() -> None:
    found = _strata(["country", "requests:10", "age:4", "devices=count(DISTINCT device)"])
    assert found == [
        {"name": "country", "column": "country"},
        {"name": "requests", "measure": "requests", "quantiles": 10},
        {"name": "age", "column": "age", "quantiles": 4},
        {"name": "devices", "expression": "count(DISTINCT device)"},
    ]
    assert len(SampleSpec.from_dict({"fraction": 1, "strata": found}).strata) == 4
    with pytest.raises(UsageError, match="COLUMN:PARTS"):
        _strata(["country:many"])


def test_list_and_describe(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    from dedup_storage.config import Settings

    warehouse = str(tmp_path_factory.mktemp("samples") / "warehouse")
    monkeypatch.setenv("DEDUP_STORAGE_WAREHOUSE", warehouse)
    lake = Lake(Settings(warehouse=warehouse))
    lake.write("clicks", make_log(users=3, requests_per_user=1))
    put(lake, "clicks", "requests", "tenth", {"fraction": 0.1})

    def run(*arguments: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["sample", *arguments, "--dataset", "clicks"])
        return done.exit_code, done.stdout, done.stderr

    status, out, _ = run("list", "--json", "-")
    assert (status, [s["name"] for s in json.loads(out)]) == (0, ["tenth"])
    status, out, _ = run("describe", "tenth")
    assert status == 0
    assert "fraction" in out
    assert "shares" in out
    status, _, error = run("describe", "tent")
    assert status == 2
    assert "no sample tent" in error
    assert "tenth" in error
