"""What carries a number of buckets says of which count it is, without Spark."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from dedup_storage.errors import ConflictError, UsageError
from dedup_storage.lake.cells import Cell
from dedup_storage.lake.delta.layout import buckets_by, expressions_of, generating
from dedup_storage.lake.history import Rebucketing
from dedup_storage.lake.iceberg.files import buckets_in
from dedup_storage.lake.publishing import require_buckets
from dedup_storage.sampling.definition import Sample, SampleSpec

METADATA = json.dumps(
    {
        "metaData": {
            "id": "1",
            "schemaString": json.dumps(
                {
                    "type": "struct",
                    "fields": [
                        {"name": "user_id", "type": "long", "nullable": False, "metadata": {}},
                        {
                            "name": "user_bucket", "type": "integer", "nullable": True,
                            "metadata": {"delta.generationExpression": "pmod(hash(`user_id`), 4)"},
                        },
                    ],
                }
            ),
            "configuration": {"a": "b"},
        }
    }
)  # fmt: skip


def sample(**own: object) -> Sample:
    spec = SampleSpec.model_validate(own.pop("spec", {"fraction": 0.5}))
    common = {"name": "s", "version": 1, "run_id": "r", "created_ms": 0, "strata": ()}
    return Sample.model_validate({**common, "spec": spec, **own})


def test_buckets_of_a_sample_are_those_of_their_count() -> None:
    stored = sample(chosen_buckets=(1, 3), of_buckets=4)
    assert stored.buckets_among(4) == (1, 3)
    # The users lie in others there: no file is left out.
    assert stored.buckets_among(8) == ()
    assert sample(chosen_buckets=(1, 3)).buckets_among(8) == (1, 3)
    assert sample(of_buckets=4).buckets_among(8) == ()
    whole = sample(spec={"buckets": 2}, chosen_buckets=(1, 3), of_buckets=4)
    assert whole.buckets_among(4) == (1, 3)
    with pytest.raises(UsageError, match="whole user buckets of 4, and the version has 8; expected a version of 4"):
        whole.buckets_among(8)


def test_a_saved_state_of_a_reader_knows_the_sample_as_before() -> None:
    assert sample(chosen_buckets=(1,), of_buckets=4).fingerprint == sample(chosen_buckets=(1,)).fingerprint
    assert "of_buckets" not in sample().fingerprint


@pytest.mark.parametrize(
    ("expression", "count"),
    [
        ("pmod(hash(`user_id`), 16)", 16),
        ("pmod(hash(`a, 3)`), 4)", 4),
        ("date_format(d, 'yyyy-MM')", None),
        (None, None),
    ],
)
def test_the_count_in_an_expression_of_delta(expression: str | None, count: int | None) -> None:
    assert buckets_by(expression) == count


def test_metadata_with_another_expression_is_the_same_otherwise() -> None:
    wanted = {"user_bucket": "pmod(hash(`user_id`), 16)"}
    changed = generating(METADATA, wanted)
    assert expressions_of(METADATA) == {"user_bucket": "pmod(hash(`user_id`), 4)"}
    assert expressions_of(changed) == wanted
    assert json.loads(generating(changed, expressions_of(METADATA))) == json.loads(METADATA)


def test_the_count_among_partition_fields_of_iceberg() -> None:
    assert buckets_in([("event_date", "identity"), ("user_id_bucket", "bucket[16]")]) == 16
    assert buckets_in([("event_date", "month")]) is None


def test_a_cell_of_another_count_is_of_all_buckets() -> None:
    assert Cell(None, None, 3).of_all_buckets == Cell(None, None, None)


def dataset(buckets: int, *changes: tuple[int, int], pending: int | None = None, coming: int = 0) -> Any:
    """Metadata of a dataset, or a description, of so many buckets, which changed in versions from 2 on."""
    return SimpleNamespace(
        name="clicks",
        buckets=buckets,
        spec=SimpleNamespace(name="clicks", buckets=buckets),
        rebucketings=tuple(Rebucketing(n, *change) for n, change in enumerate(changes, start=2)),
        pending=pending,
        half_abandoned=None,
        described={} if pending is None else {pending: SimpleNamespace(buckets=coming)},
    )


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (dataset(8, (4, 8)), "clicks changed from 4 to 8 in version 2, after it was opened"),
        (dataset(8, (4, 8), (8, 4), (4, 8)), "clicks changed from 4 to 8 in version 4, after it was opened"),
        (dataset(8, (4, 6), (6, 8)), "^clicks has 8 buckets, and had 4 when it was opened"),
        # The name is another dataset's by now.
        (dataset(8), "^clicks has 8 buckets, and had 4 when it was opened"),
    ],
)
def test_a_dataset_that_was_opened_with_other_buckets(now: Any, told: str) -> None:
    with pytest.raises(ConflictError, match=told):
        require_buckets(now, dataset(4))


def test_a_table_that_has_the_buckets_of_a_version_to_come() -> None:
    now = dataset(4, pending=3, coming=8)
    with pytest.raises(ConflictError, match="changes from 4 to 8 in version 3, which is not complete"):
        require_buckets(now, dataset(4), 8)
    require_buckets(now, dataset(4))
    # Another tool's number: the version does not bring it.
    require_buckets(now, dataset(4), 6)
    require_buckets(dataset(4), dataset(4), 8)
