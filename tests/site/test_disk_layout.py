"""A reader that knows docs/disk-layout.md alone gives the raw log back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import load_catalog

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.lake.iceberg.catalog import pyiceberg_properties
from dedup_storage.sources.raw import RawLog
from dedup_storage.synth import SynthParams, write_log


def _rows_of_version(settings: Settings, name: str) -> pa.Table:
    """The flat log of the newest version."""
    catalog = load_catalog(settings.catalog.name, **pyiceberg_properties(settings))
    tables = {t[-1]: catalog.load_table(t) for t in catalog.list_tables(name)}
    anchor = next(t for t in tables.values() if "dedup-storage.dataset" in t.properties)
    described = json.loads(anchor.properties["dedup-storage.dataset"])
    assert described["format_version"] == 1
    newest = max(int(tag[1:]) for tag in anchor.refs() if re.fullmatch(r"v[1-9]\d*", tag))
    members = [table for table in tables.values() if f"v{newest}" in table.refs()]
    read = {
        t.properties["dedup-storage.role"]: t.scan(snapshot_id=t.refs()[f"v{newest}"].snapshot_id).to_arrow()
        for t in members
    }
    if described["layout"] == "flat":
        return read["logs"].select(described["source_columns"])
    schema = described["schema"]
    keys = [schema["user"], *schema["request"]]
    requests, impressions = read["requests"], read["impressions"]
    numbered = requests.select(keys).append_column("row", pa.array(range(len(requests))))
    matched = impressions.join(numbered, keys=keys, join_type="inner")
    lists = requests.take(matched["row"])
    columns = {c: matched[c] if c in matched.column_names else lists[c] for c in described["source_columns"]}
    return pa.table(columns)


@pytest.mark.parametrize("layout", ["split", "flat"])
def test_the_page_is_enough_to_read_a_dataset(
    layout: str, spark: Any, settings: Settings, name: str, tmp_path: Path
) -> None:
    params = SynthParams(users=9, requests_per_user=3, candidates_per_request=4, sequence_length=6, items=500, files=1)
    made = write_log(params, str(tmp_path / "raw"))
    schema = params.log_schema()
    raw = RawLog.read(spark, made.tables["log"], schema=schema)
    Dataset.create(spark, settings, name, schema, raw, layout=layout).write(raw, gate=False)
    order = [(column, "ascending") for column in ("user_id", "request_id", "item_id")]
    source = pq.read_table(made.tables["log"])
    found = _rows_of_version(settings, name).cast(source.schema).sort_by(order)
    assert found.equals(source.sort_by(order))
