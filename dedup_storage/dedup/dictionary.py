"""Whether a list column wants a Parquet dictionary, judged by a few of its lists.

A history repeats the one before, and the compressor finds the copy by an element that the list holds once: where that
element stood last, there the copy is. Lists of ids are full of such elements. A list of quantities or actions has
hardly one; each of its values stands in many wrong places, plain values compress badly, and a dictionary makes them
small to begin with. Elsewhere it harms: indices that are no whole number of bytes no longer line up with those of the
copy, and what is then stored again grows with the entropy of the values (docs/decisions.md, 'Encodings').
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dedup_storage.dedup.runs import Int64

__all__ = ["MOST_ELEMENTS", "MOST_LISTS", "wants_dictionary"]

# Enough to judge by: lists, and elements of each.
MOST_LISTS, MOST_ELEMENTS = 64, 4096
# Measured on synthetic lists of 50 to 2,000 elements and on three logs: below, a dictionary took 0.1 to 1.3 times the
# bytes of plain values, above, 0.5 to 3.1 times.
_FEW_BITS = 18.0
# Short lists have few elements of any kind, and indices of more bits than this are as good as bytes.
_FEW_SHARE, _MOST_BITS = 0.1, 6.0

Numbers = npt.NDArray[np.int64] | npt.NDArray[np.uint64]


def wants_dictionary(values: Numbers, offsets: Int64) -> bool:
    """Whether the elements that occur once in their list are few, the fewer the less the values repeat.

    Of the lists that are at least half as long as the longest, the median number of elements that occur once in their
    list, times the mean entropy of a list's values in bits, must be below 18; the entropy itself below 6 bits.

    Args:
        values: (elements,) the lists' elements or their hashes.
        offsets: (lists + 1,) where each list begins.

    Example: fifty times 1 and fifty times 2 -> True; 1, 2, 3, …, 100 -> False
    """
    lengths = np.minimum(np.diff(offsets), MOST_ELEMENTS)
    longest = int(lengths.max(initial=0))
    if not longest:
        return False
    chosen = np.flatnonzero(2 * lengths >= longest)
    lengths, starts = lengths[chosen], offsets[:-1][chosen]
    lists = np.repeat(np.arange(len(chosen)), lengths)
    within = np.arange(len(lists)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    values = values[starts[lists] + within]
    order = np.lexsort((values, lists))
    values, lists = values[order], lists[order]
    new = np.concatenate([[True], (values[1:] != values[:-1]) | (lists[1:] != lists[:-1])])
    first = np.flatnonzero(new)
    counts = np.diff(first, append=len(values))
    once = np.bincount(lists[first[counts == 1]], minlength=len(chosen))
    bits = float((counts * np.log2(lengths[lists[first]] / counts)).sum()) / len(values)
    few = float(np.median(once)) * bits < _FEW_BITS
    return bool(once.sum() <= _FEW_SHARE * len(values)) and bits < _MOST_BITS and few
