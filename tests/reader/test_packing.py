"""Packing, against rows put together one by one: many columns of a width, several windows, nulls, codes, lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dedup_storage.errors import SchemaError
from dedup_storage.reader import DedupBatch
from dedup_storage.reader.decode.columns import encode_columns
from dedup_storage.reader.decode.encode import Forms
from dedup_storage.reader.decode.pack import BatchPacker, Part
from dedup_storage.reader.decode.window import Window, encode_window
from dedup_storage.reader.progress import Progress

Rows = list[dict[str, Any]]
PACKER = BatchPacker("wide_0", "item_0", (), (), Forms())


def _table(rng: np.random.Generator, rows: int, prefix: str, nulls: bool) -> pa.Table:
    """Eight columns of 64 bits, three of 32, a truth value, text, lists of both kinds, in two chunks each."""

    def gap(share: float) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        return rng.random(rows) < share if nulls else None

    columns: dict[str, pa.Array] = {
        f"{prefix}_{n}": pa.array(rng.integers(0, 10**12, rows), mask=gap(0.1) if n == 3 else None) for n in range(8)
    }
    columns |= {f"{prefix}_small_{n}": pa.array(rng.integers(0, 99, rows), pa.int32()) for n in range(3)}
    columns[f"{prefix}_flag"] = pa.array(rng.integers(0, 2, rows).astype(bool), mask=gap(0.3))
    columns[f"{prefix}_word"] = pa.array([f"w{n}" for n in rng.integers(0, 5, rows)], mask=gap(0.2))
    lists = [rng.integers(0, 9, n).tolist() for n in rng.integers(0, 4, rows)]
    holes = [[None, *one] if nulls and one and one[0] == 0 else one for one in lists]
    columns[f"{prefix}_list"] = pa.array([None if nulls and n % 7 == 2 else one for n, one in enumerate(holes)])
    columns[f"{prefix}_words"] = pa.array([[f"v{v}" for v in one] for one in lists], pa.list_(pa.string()))
    columns[f"{prefix}_long"] = pa.array([[float(n)] * 600 for n in range(rows)], pa.list_(pa.float64()))
    # Lies as the one before, and as none of the others.
    columns[f"{prefix}_beside"] = pa.array([[n] * 600 for n in range(rows)], pa.list_(pa.int32()))
    table = pa.table(columns)
    return pa.concat_tables([table.slice(0, rows // 3), table.slice(rows // 3)])


def _window(rng: np.random.Generator, lengths: list[int], nulls: bool) -> tuple[Window, Rows, list[Rows]]:
    """A window in a shuffled order, and its requests and their impressions in that order."""
    requests = _table(rng, len(lengths), "wide", nulls)
    impressions = _table(rng, sum(lengths), "item", nulls)
    order = rng.permutation(len(lengths))
    window = encode_window(requests, impressions, np.array(lengths, dtype=np.int64), order, PACKER.forms)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    all_impressions = impressions.to_pylist()
    own = requests.to_pylist()
    return window, [own[r] for r in order], [all_impressions[starts[r] : starts[r + 1]] for r in order]


def _part(window: Window, first: int, last: int) -> Part:
    bounds = window.offsets[first : last + 1]
    return Part(window, (first, last), (int(bounds[0]), int(bounds[-1])), bounds[1:] - bounds[:-1])


def _decoded(batch: DedupBatch, rows: Rows) -> dict[str, list[Any]]:
    return {name: batch[name].decode() for name in rows[0]}


@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize("most", [3, 40])
def test_a_batch_holds_the_rows_of_its_windows(nulls: bool, most: int) -> None:
    rng = np.random.default_rng(most + nulls)
    lengths = [rng.integers(0, most, 30).tolist() for _ in range(2)]
    (first, own, theirs), (second, more, others) = (_window(rng, one, nulls) for one in lengths)
    for parts, requests, impressions in (
        ([_part(first, 4, 19)], own[4:19], theirs[4:19]),
        ([_part(first, 25, 30), _part(second, 0, 11)], own[25:] + more[:11], theirs[25:] + others[:11]),
    ):
        batch = PACKER.pack(parts, Progress())
        flat = [row for one in impressions for row in one]
        assert batch.lengths.tolist() == [len(one) for one in impressions]
        assert batch.inverse_indices.tolist() == [r for r, one in enumerate(impressions) for _ in one]
        assert list(batch) == [*requests[0], *flat[0]]
        assert _decoded(batch, requests) == {n: [row[n] for row in requests] for n in requests[0]}
        assert _decoded(batch, flat) == {n: [row[n] for row in flat] for n in flat[0]}
        # Every tensor begins where the processor likes it, and none reaches into the next.
        ends = 0
        for view in sorted(batch.views, key=lambda view: view.start):
            assert view.start % 64 == 0
            assert view.start >= ends
            ends = view.start + view.size * view.dtype.itemsize
        assert ends <= batch.num_bytes


def test_windows_whose_columns_differ_are_refused() -> None:
    ones = np.array([1, 1], dtype=np.int64)
    windows = [
        encode_window(pa.table({"user": pa.array([1, 2], kind)}), pa.table({"item": [3, 4]}), ones, None, Forms())
        for kind in (pa.int64(), pa.float64())
    ]
    with pytest.raises(SchemaError, match="two windows whose columns differ; expected user int64; got user float64"):
        PACKER.pack([_part(windows[0], 0, 2), _part(windows[1], 0, 1)], Progress())


def test_columns_whose_lists_lie_alike_share_what_is_found_of_them() -> None:
    """As many elements in all are not enough: each row's must begin and end where the other's do."""
    lists = {
        "one": [[1, 2], [3], []],
        "two": [[4, 5], [6], []],
        "turned": [[], [7], [8, 9]],
        "texts": [["a", "b"], ["c"], []],
    }
    encoded = encode_columns(pa.table(lists), None, Forms()).lists
    assert encoded["one"].place == encoded["two"].place == encoded["texts"].place
    assert encoded["turned"].place != encoded["one"].place
    assert {name: column.sources[0].values.tolist() for name, column in encoded.items() if name != "texts"} == {
        "one": [1, 2, 3], "two": [4, 5, 6], "turned": [7, 8, 9]
    }  # fmt: skip
