"""Runs, key matching, inverse indices and gathering against slow forms."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_storage.dedup import (
    collapse_table,
    dedup_factor,
    expand_array,
    expand_table,
    gather,
    inverse_from_lengths,
    lengths_from_inverse,
    match_keys,
    ranges,
    run_lengths,
    run_starts,
)
from dedup_storage.dedup.expand import newest
from dedup_storage.dedup.runs import large_offsets, single_chunk
from dedup_storage.errors import InverseIndexError

KEYS = st.lists(st.tuples(st.integers(-2, 2) | st.none(), st.sampled_from(["a", "b", "é", None])), max_size=40)
LISTS = st.lists(st.none() | st.lists(st.integers(-(2**62), 2**62), max_size=5), min_size=1, max_size=20)


def columns(rows: list[tuple[Any, Any]]) -> list[pa.Array]:
    return [pa.array([r[0] for r in rows], pa.int64()), pa.array([r[1] for r in rows], pa.string())]


@given(KEYS)
def test_runs_equal_groupby(rows: list[tuple[Any, Any]]) -> None:
    starts = run_starts(columns(rows))
    lengths = [len(list(group)) for _, group in groupby(rows)]
    assert run_lengths(starts, len(rows)).tolist() == lengths
    assert inverse_from_lengths(lengths).tolist() == [i for i, n in enumerate(lengths) for _ in range(n)]


@given(KEYS, KEYS)
def test_match_keys_equals_a_dictionary(left: list[tuple[Any, Any]], right: list[tuple[Any, Any]]) -> None:
    first: dict[tuple[Any, Any], int] = {}
    for place, row in enumerate(left):
        first.setdefault(row, place)
    assert match_keys(columns(left), columns(right)).tolist() == [first.get(r, -1) for r in right]
    assert match_keys(columns(left), columns(left)).tolist() == [first[r] for r in left]


@given(LISTS, st.data())
def test_gather_equals_take(lists: list[Any], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=30))
    array = pa.array(lists, pa.list_(pa.int64()))
    cut = data.draw(st.integers(0, len(lists) - 1))
    assert gather(array, np.array(rows, dtype=np.int64)).to_pylist() == [lists[r] for r in rows]
    inside = [r - cut for r in rows if r >= cut]
    sliced = gather(array.slice(cut), np.array(inside, dtype=np.int64))
    assert sliced.to_pylist() == [lists[cut:][r] for r in inside]


def test_gather_of_lists_that_have_no_element_and_no_buffer() -> None:
    elements = pa.Array.from_buffers(pa.int64(), 0, [None, None])
    lists = pa.ListArray.from_arrays(pa.array([0, 0, 0], pa.int32()), elements)
    assert gather(lists, np.array([1, 0, 1])).to_pylist() == [[], [], []]


def test_gather_of_element_nulls_text_and_nested_lists() -> None:
    rows = np.array([2, 0], dtype=np.int64)
    for values in ([[1, None], [], [3]], [["a"], None, ["b", None]], ["x", "y", None], [[[1]], [], [[2, 3]]]):
        assert gather(pa.array(values), rows).to_pylist() == [values[2], values[0]]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=20))
def test_ranges_equal_the_slow_form(pairs: list[tuple[int, int]]) -> None:
    found = ranges([a for a, _ in pairs], [n for _, n in pairs]).tolist()
    assert found == [i for a, n in pairs for i in range(a, a + n)]


def test_collapse_then_expand_is_the_identity() -> None:
    flat = pa.table({"u": [1, 1, 2, 2, 2], "r": [1, 1, 1, 3, 3], "h": [[1], [1], [2], [], []], "i": [1, 2, 3, 4, 5]})
    requests, lengths = collapse_table(flat, ["u", "r"], ["u", "r", "h"])
    assert lengths.tolist() == [2, 1, 2]
    assert requests.num_rows == 3
    assert expand_table(requests, inverse_from_lengths(lengths)).to_pydict() == flat.select(["u", "r", "h"]).to_pydict()
    assert dedup_factor(flat["u"]) == 2.5


def test_indices_outside_are_refused() -> None:
    assert expand_array(np.array([[7], [9]]), [0, 0, 1]).tolist() == [[7], [7], [9]]
    for bad in ([2], [-1]):
        with pytest.raises(InverseIndexError, match="outside the request rows"):
            expand_array(np.array([7, 9]), bad)
        with pytest.raises(InverseIndexError):
            lengths_from_inverse(bad, 2)


def test_lists_of_more_elements_than_32_bits_count_become_one_array() -> None:
    # Elements of the null type take no memory, so 2**31 of them can be had here; texts take the same way.
    piece = pa.ListArray.from_arrays(pa.array([0, 2**30], pa.int32()), pa.nulls(2**30))
    joined = single_chunk(pa.chunked_array([piece] * 3))
    assert (joined.type, len(joined), joined.offsets[-1].as_py()) == (pa.large_list(pa.null()), 3, 3 * 2**30)
    kinds = pa.struct([("a", pa.list_(pa.string())), ("b", pa.int64())])
    assert large_offsets(kinds) == pa.struct([("a", pa.large_list(pa.large_string())), ("b", pa.int64())])


def test_keys_match_across_the_large_form_of_their_type() -> None:
    short, large = pa.array(["a", "b"]), pa.array(["b", "c"], pa.large_string())
    assert match_keys([short], [large]).tolist() == [1, -1]
    assert match_keys([large], [short]).tolist() == [-1, 0]


@given(LISTS, st.integers(1, 4))
def test_newest_equals_a_slice(lists: list[Any], most: int) -> None:
    cut = newest(pa.array(lists, pa.list_(pa.int64())), most)
    assert cut.to_pylist() == [None if row is None else row[-most:] for row in lists]
