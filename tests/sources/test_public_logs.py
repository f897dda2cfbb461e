"""Public logs from the published file to a report and a first batch, each by the commands of the how-to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dedup_storage.cli import app
from dedup_storage.reader import DedupDataset
from dedup_storage.schema import LogSchema
from dedup_storage.sources.forms.flat import flat_source
from dedup_storage.sources.raw import RawLog
from dedup_storage.sources.recognise.head import read_head
from dedup_storage.sources.recognise.propose import propose
from dedup_storage.sources.source import open_source
from dedup_storage.sources.wanted import wanted_columns
from tests.sources.cases import Case
from tests.sources.public_logs import kuairand, mind, mind_rows, otto, padded, retailrocket


def _told(case: Case, *arguments: object) -> str:
    code, said = case.cli(*arguments)
    assert code == 0, said
    return said


def _by_arrow(place: str, schema: str) -> list[dict[str, Any]]:
    """The flat rows that estimate measures."""
    described = LogSchema.from_yaml(schema)
    flat, _ = flat_source(open_source(place, wanted=wanted_columns(described)), described)
    return pa.concat_tables(flat.tables()).to_pylist()


@pytest.mark.long
def test_mind_from_its_file_to_a_first_batch(case: Case, name: str) -> None:
    place = mind(Path())
    said = _told(
        case, "infer-schema", place, "--header", "impression_id,user_id,time,history,impressions", "-o", "mind.yaml"
    )
    assert "First rows as they are understood" in said
    _told(case, "write", place, "--dataset", name, "--schema", "mind.yaml")
    said = _told(case, "report", "--dataset", name, "--batch", 500)
    # One small bucket may be a batch by itself.
    assert "history lists of string" in said.partition("The first of the batches that DedupDataset(")[2]
    for other in (("--json", "-"), ("--raw", place)):
        code, said = case.cli("report", "--dataset", name, "--batch", 500, *other)
        assert (code, "--batch does nothing beside" in said) == (2, True)
    expected = sorted(
        (r["impression_id"], r["user_id"], r["time"], r["history"], item, label)
        for r in mind_rows()
        for item, label in r["shown"]
    )
    columns = ["impression_id", "user_id", "time", "history", "item_id", "label"]
    for _ in range(2):
        rows = case.open(name).logs().select(*columns).toArrow().to_pylist()
        made = sorted((*(r[c] for c in columns[:2]), r["time"].replace(tzinfo=None), r["history"] or [], r["item_id"],
                       r["label"]) for r in rows)  # fmt: skip
        assert made == expected
        # A later day is read by the forms that the dataset keeps.
        _told(case, "write", place, "--dataset", name, "--mode", "replace")
    flat = sorted(
        (r["impression_id"], r["history"] or [], r["item_id"], r["label"]) for r in _by_arrow(place, "mind.yaml")
    )
    assert flat == [(request, history, item, label) for request, _, _, history, item, label in expected]
    batches = list(DedupDataset(name, settings=case.settings, batch_size=500))
    assert sum(len(batch.inverse_indices) for batch in batches) == len(expected)
    assert sum(int(batch["label"].values.sum()) for batch in batches) == len(mind_rows())


def test_a_log_of_single_rows_tells_nothing_of_grains(case: Case) -> None:
    said = _told(case, "infer-schema", kuairand(Path()), "-o", "kuairand.yaml")
    assert "hardly a request has two rows" in said
    grains = LogSchema.from_yaml("kuairand.yaml").columns
    assert (grains["long_view"], grains["duration_ms"]) == ("impression", "impression")


def test_infer_schema_says_what_is_to_be_done_about_logs_of_events() -> None:
    """Newcomers stopped at each of these: no request in a session's list of events, labels that are texts, no names."""
    runner, where = CliRunner(), Path()
    found = runner.invoke(app, ["infer-schema", otto(where)])
    assert found.exit_code == 2
    assert "expected the key columns: user, request and item. Give --request COLUMN" in " ".join(found.output.split())
    assert "jq -c '.events[] + del(.events)' LOG > rows.jsonl" in " ".join(found.output.split())
    assert propose(read_head(retailrocket(where)), {}).unsure["labels"] == (
        "event was taken for the label: its name, though its values are texts, of which numbers are to be made before "
        "training"
    )
    pq.write_table(pa.table({"user_id": [1.0, 1.0], "request_id": [1, 2], "item_id": [5, 6]}), "floats.parquet")
    said = " ".join(runner.invoke(app, ["infer-schema", "floats.parquet"]).output.split())
    assert "expected a user that is an integer or a text; got user_id, which its name tells, of type double" in said
    assert "(--header a,b,c)" in propose(read_head(mind(where)), {}).unsure["header"]
    # What follows the advice is read.
    events = [
        {**e, "session": row["session"]}
        for row in map(json.loads, Path(otto(where)).read_text().splitlines())
        for e in row["events"]
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    made = propose(read_head("rows.jsonl"), {}).values
    assert (made["user"], made["request"], made["item"]) == ("session", ["ts"], "aid")


def test_a_padded_log_that_is_newest_first(case: Case) -> None:
    place = padded(Path())
    _told(case, "infer-schema", place, "-o", "padded.yaml")
    _told(case, "estimate", place, "--schema", "padded.yaml")
    raw = pq.read_table(place).to_pylist()
    kept = [5 - row["hist"].count(0) for row in raw]
    lists = ("hist", "hist_rating")
    plain = [[row[c][:n][::-1] for c in lists] for row, n in zip(raw, kept, strict=True)]
    assert [[row[c] for c in lists] for row in _by_arrow(place, "padded.yaml")] == plain
    log = RawLog.read(case.spark, place, schema=LogSchema.from_yaml("padded.yaml"))
    assert [[row[c] for c in lists] for row in log.frame.select(*lists).toArrow().to_pylist()] == plain
