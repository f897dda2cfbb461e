"""Which lists want a dictionary, against a plain form, and what follows for a table's properties and bytes."""

from __future__ import annotations

import math
import statistics
from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dedup_storage.dedup.dictionary import MOST_ELEMENTS, wants_dictionary
from dedup_storage.layout import DatasetSpec, Layout, TableRole
from dedup_storage.report.draw.users import from_flat
from dedup_storage.report.estimate.baselines import (
    BaselineLayout,
    default_tuned,
    measure_layout,
    starting_encoding,
)
from dedup_storage.report.parquet.encoding import Encoding
from dedup_storage.schema import DateGrain, LogSchema
from dedup_storage.table_properties import encoding_properties

DICTIONARY = "write.parquet.dict-encoding-enabled.column."


def _plain(lists: list[list[int]]) -> bool:
    longest = max(map(len, lists), default=0)
    chosen = [x for x in lists if x and 2 * len(x) >= longest]
    once: list[int] = []
    elements, bits = 0, 0.0
    for values in chosen:
        counts = Counter(values)
        once.append(sum(n == 1 for n in counts.values()))
        elements += len(values)
        bits -= sum(n * math.log2(n / len(values)) for n in counts.values())
    if not chosen or 10 * sum(once) > elements:
        return False
    return bits / elements < 6 and bits / elements * statistics.median(once) < 18


def _wants(lists: list[list[int]]) -> bool:
    values = np.array([x for values in lists for x in values], dtype=np.int64)
    return wants_dictionary(values, np.concatenate([[0], np.cumsum([len(x) for x in lists])]).astype(np.int64))


@given(st.lists(st.lists(st.integers(0, 4), max_size=60), max_size=6))
def test_the_rule_in_plain_python(lists: list[list[int]]) -> None:
    assert _wants(lists) is _plain(lists)


def test_lists_of_many_kinds() -> None:
    random = np.random.default_rng(0)
    skewed = 1 / np.arange(1, 5_001) ** 2.5
    for wanted, draw in (
        (True, lambda: random.integers(0, 3, 300)),
        (True, lambda: random.choice(5_000, 300, p=skewed / skewed.sum())),
        (False, lambda: random.integers(0, 1_000, 300)),
        (False, lambda: random.permutation(300)),
        (False, lambda: random.integers(0, 100, 3_000)),
        (False, lambda: np.arange(2)),
    ):
        assert _wants([draw().tolist() for _ in range(20)]) is wanted
    # Short lists of users without a history yet say nothing.
    assert _wants([[1, 2, 3]] * 50 + [[1, 2] * 100])
    # Only so much of a list is looked at.
    assert _wants([[1, 2] * (MOST_ELEMENTS // 2) + list(range(5_000))])


SCHEMA = LogSchema.from_dict(
    {
        "user": "user_id", "request": "request_id", "item": "item", "labels": "y",
        "sequences": [{"column": "ids"}, {"column": "kinds"}],
    }
)  # fmt: skip


def _log() -> pa.Table:
    """40 users, 3 requests, 2 candidates; 200 events that slide by 7: ids of ten thousand, kinds of four."""
    random = np.random.default_rng(0)
    rows = []
    for user in range(40):
        ids, kinds = random.integers(0, 10_000, 300), random.choice(4, 300, p=[0.7, 0.1, 0.1, 0.1])
        for r in range(3):
            at = slice(7 * r, 7 * r + 200)
            for c in range(2):
                rows.append(
                    {
                        "user_id": user, "request_id": 10 * user + r, "ids": ids[at].tolist(),
                        "kinds": kinds[at].tolist(), "item": c, "y": c,
                    }
                )  # fmt: skip
    return pa.Table.from_pylist(rows)


def test_lists_that_want_a_dictionary_start_with_one_and_are_smaller_for_it() -> None:
    draw = from_flat(SCHEMA, [_log()])
    encoding = starting_encoding(draw)
    assert encoding == default_tuned(["ids", "kinds"], {"kinds"})
    assert encoding.columns == {"ids": False, "kinds": True}
    for layout in (BaselineLayout.SPLIT, BaselineLayout.FLAT_SORTED_TUNED):
        ours = measure_layout(draw, layout)
        without = measure_layout(draw, layout, default_tuned(["ids", "kinds"]))
        assert ours.columns["kinds"] < without.columns["kinds"] / 2
        assert ours.columns["ids"] == without.columns["ids"]


def test_tables_and_estimates_start_from_the_same_properties() -> None:
    source = {"user_id": "bigint", "request_id": "bigint", "ids": "array<bigint>", "kinds": "array<int>", "item": "int"}
    grains = {"ids": "request", "kinds": "request"}
    schema = LogSchema.from_dict({**SCHEMA.to_dict(), "columns": grains})
    spec = DatasetSpec.build(
        "d", schema, {**source, "y": "int"}, layout=Layout.SPLIT, date_grain=DateGrain.NONE, buckets=4
    )
    properties = encoding_properties(spec, spec.table(TableRole.REQUESTS), dictionaries={"kinds"})
    assert properties[f"{DICTIONARY}ids.element"] == "false"
    assert properties[f"{DICTIONARY}kinds.element"] == "true"
    assert Encoding.from_properties(properties) == default_tuned(["ids", "kinds"], {"kinds"})
    impressions = encoding_properties(spec, spec.table(TableRole.IMPRESSIONS), dictionaries={"kinds"})
    assert not [key for key in impressions if key.startswith(DICTIONARY)]
