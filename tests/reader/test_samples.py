"""Named samples in the reader, on tables written without Spark."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyiceberg.transforms import BucketTransform

from dedup_storage.errors import ConfigError, StateMismatchError, StorageError
from dedup_storage.layout import Layout
from dedup_storage.reader import DedupDataset
from dedup_storage.sampling.definition import Sample, SampleSpec, StratumCount
from dedup_storage.sampling.hashing import user_points
from dedup_storage.sampling.stored import SAMPLE_PREFIX
from tests.reader.lake import Lake, make_log
from tests.reader.reading import deliver


def put(lake: Lake, dataset: str, anchor: str, name: str, spec: dict[str, Any], **more: Any) -> Sample:
    """Store a sample's record, as Spark's side does."""
    chosen = SampleSpec.from_dict(spec)
    count = StratumCount(label="all", users=12, sampled=6, probability=more.pop("probability", chosen.fraction or 1.0))
    sample = Sample(name=name, spec=chosen, version=1, run_id="r", created_ms=0, strata=(count,), **more)
    with lake.table(dataset, anchor).transaction() as change:
        change.set_properties({SAMPLE_PREFIX + name: sample.model_dump_json()})
    return sample


def put_users(lake: Lake, dataset: str, users: dict[Any, float], others: list[Any], tag: str) -> None:
    """The table of a stored sample."""
    every = [*users, *others]
    rows = pa.table(
        {
            "user_id": pa.array(every),
            "stratum": pa.array(["all"] * len(every)),
            "sampled": pa.array([u in users for u in every]),
            "user_weight": pa.array([users.get(u, 0.0) for u in every], pa.float64()),
        }
    )
    table = lake.catalog.create_table(f"{dataset}.sm_stored", schema=rows.schema)
    with table.update_spec() as update:
        update.add_field("user_id", BucketTransform(4), "user_bucket")
    table.append(rows)
    table.manage_snapshots().create_tag(table.current_snapshot().snapshot_id, tag).commit()


def read(dataset: DedupDataset) -> tuple[dict[Any, float], int]:
    """Weight of each user delivered, and the impressions; both weights must agree."""
    found: dict[Any, float] = {}
    impressions = 0
    for batch in dataset:
        weights = batch["request_weight"].values
        found |= dict(zip(batch["user_id"].decode(), weights.tolist(), strict=True))
        assert batch["impression_weight"].values.tolist() == weights[batch.inverse_indices].tolist()
        impressions += batch.num_impressions
    return found, impressions


@pytest.mark.parametrize("layout", [Layout.SPLIT, Layout.FLAT])
@pytest.mark.parametrize("strings", [False, True])
def test_a_hash_sample_reads_whole_users(lake: Lake, layout: Layout, strings: bool) -> None:
    log = make_log(string_users=strings)
    name = f"hashed_{layout.value}_{strings}".lower()
    lake.write(name, log, layout=layout)
    anchor = "requests" if layout is Layout.SPLIT else "logs"
    sample = put(lake, name, anchor, "part", {"fraction": 0.4, "seed": 5, "offset": 0.3})
    low, high = sample.spec.points()
    users = log.requests["user_id"].unique().to_pylist()
    inside = [u for u in users if low <= user_points(pa.array([u]), 5)[0] < high]
    assert 0 < len(inside) < len(users)
    found, impressions = read(DedupDataset(name, lake.settings, sample="part", batch_size=16))
    assert found == dict.fromkeys(inside, 1 / 0.4)
    assert impressions == sum(u in inside for u in log.impressions["user_id"].to_pylist())
    rest = put(lake, name, anchor, "rest", {"fraction": 0.3, "seed": 5, "offset": 0.7})
    assert rest.spec.points()[0] >= high
    assert not set(read(DedupDataset(name, lake.settings, sample="rest"))[0]) & set(inside)


def test_stored_users_with_unequal_weights(lake: Lake) -> None:
    lake.write("stored", make_log())
    weights = {1: 2.0, 5: 4.5, 7: 1.0}
    put_users(lake, "stored", weights, [0, 2, 3, 4], "sample-a")
    spec = {"fractions": {"*": 0.5}, "strata": [{"name": "c", "column": "country"}]}
    put(lake, "stored", "requests", "part", spec, table="sm_stored", tag="sample-a")
    dataset = DedupDataset("stored", lake.settings, sample="part", columns=["user_id", "request_weight", "age"])
    assert read(dataset)[0] == weights
    assert list(next(iter(dataset)).requests) == ["user_id", "request_id", "age", "request_weight"]
    # Once more with workers: the plan travels with the users in it.
    part = DedupDataset("stored", lake.settings, sample="part")
    assert sorted(deliver(part, workers=2)) == sorted(deliver(part))
    put(lake, "stored", "requests", "gone", spec, table="sm_stored", tag="sample-b")
    with pytest.raises(StorageError, match="users of the sample gone are gone"):
        DedupDataset("stored", lake.settings, sample="gone")


def test_buckets_and_dates_leave_files_out(lake: Lake) -> None:
    lake.write("pruned", make_log(users=40))
    put(lake, "pruned", "requests", "two", {"buckets": 2}, chosen_buckets=(1, 3), probability=0.5)
    bucket = BucketTransform(4).pyarrow_transform(
        lake.table("pruned", "requests").schema().find_field("user_id").field_type
    )
    numbers = bucket(pa.array(np.arange(40, dtype=np.int64))).to_pylist()
    dataset = DedupDataset("pruned", lake.settings, sample="two")
    assert read(dataset)[0] == {u: 2.0 for u in range(40) if numbers[u] in (1, 3)}
    assert len({u.file for u in dataset.plan.units}) == 4  # two buckets on two days
    put(lake, "pruned", "requests", "day", {"fraction": 1.0, "end": "2022-01-08"})
    day = DedupDataset("pruned", lake.settings, sample="day")
    assert {dict(u.segment)["identity(event_date)"] for u in day.plan.units} == {
        (dt.date(2022, 1, 8) - dt.date(1970, 1, 1)).days
    }


def test_a_state_belongs_to_the_sample_as_it_was(lake: Lake) -> None:
    lake.write("state", make_log())
    put(lake, "state", "requests", "part", {"fraction": 0.9})
    state = DedupDataset("state", lake.settings, sample="part").state_dict()
    DedupDataset("state", lake.settings, sample="part").load_state_dict(state)
    put(lake, "state", "requests", "part", {"fraction": 0.8})
    with pytest.raises(StateMismatchError):
        DedupDataset("state", lake.settings, sample="part").load_state_dict(state)


def test_capped_samples_are_sent_to_materialise(lake: Lake) -> None:
    lake.write("capped", make_log())
    put(lake, "capped", "requests", "few", {"fraction": 1.0, "caps": {"requests": 2}})
    with pytest.raises(ConfigError, match="sample materialise"):
        DedupDataset("capped", lake.settings, sample="few")


def test_an_empty_batch_has_the_weights(lake: Lake) -> None:
    lake.write("padded", make_log(users=2, requests_per_user=1), row_group_rows=2)
    put(lake, "padded", "requests", "all", {"fraction": 1.0})
    ranks = [
        list(DedupDataset("padded", lake.settings, sample="all", rank=r, world_size=4, ends="pad", splits=4))
        for r in range(4)
    ]
    empty = [b for batches in ranks for b in batches if not b.num_requests]
    assert empty
    assert empty[0]["request_weight"].values.shape == (0,)
    # No impression column is read, and every request of the files is in the sample.
    assert read(DedupDataset("padded", lake.settings, sample="all", columns=["age"]))[0] == {0: 1.0, 1: 1.0}
