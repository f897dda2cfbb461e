"""The nested log made of EB-NeRD's two files, against a slow construction."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dedup_storage.demo.ebnerd import HISTORY, log_schema, write_log
from dedup_storage.errors import InputError


def test_labels_and_histories_equal_the_slow_ones(ebnerd: Path, tmp_path: Path) -> None:
    assert write_log(ebnerd, tmp_path) == 1_046
    made = pq.read_table(tmp_path).to_pylist()
    behaviours = pq.read_table(ebnerd / "behaviors.parquet").to_pylist()
    history = {row["user_id"]: row for row in pq.read_table(ebnerd / "history.parquet").to_pylist()}
    for row, source in zip(made, behaviours, strict=True):
        clicked = set(source["article_ids_clicked"])
        assert row["inview_clicked"] == [int(a in clicked) for a in source["article_ids_inview"]]
        past = history.get(source["user_id"], dict.fromkeys(HISTORY))
        assert repr([row[c] for c in HISTORY]) == repr([past[c] for c in HISTORY])
        assert {c: row[c] for c in source} == source or row["scroll_percentage"] != row["scroll_percentage"]
    assert sum(sum(row["inview_clicked"]) for row in made) > 900
    log_schema().require_columns(made[0])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"behaviors\.parquet is not there"):
        write_log(tmp_path, tmp_path / "out")
