"""Public logs from the published file to a report and a first batch, each by the commands of the how-to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup_storage.reader import DedupDataset
from dedup_storage.schema import LogSchema
from dedup_storage.sources.forms.flat import flat_source
from dedup_storage.sources.raw import RawLog
from dedup_storage.sources.source import open_source
from dedup_storage.sources.wanted import wanted_columns
from tests.sources.cases import Case
from tests.sources.public_logs import kuairand, mind, mind_rows, padded


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
    assert "history" in _told(case, "report", "--dataset", name)
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
