"""How the ratio grows with the length of the histories and with the candidates of a request, other things equal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from dedup_storage.dedup import gather, gather_table, ranges
from dedup_storage.dedup.gather import list_parts
from dedup_storage.report.draw.users import LogSample
from dedup_storage.report.estimate.baselines import BaselineLayout, measure_layout
from dedup_storage.report.model import Curve
from dedup_storage.report.parquet.encoding import Encoding

__all__ = ["curves", "with_candidates", "with_newest"]

_STEPS = 5
_CURVE_BYTES = 128 * 1024**2


def with_newest(sample: LogSample, most: int) -> LogSample:
    """The sample with every history cut to its newest ``most`` elements."""
    requests = sample.requests
    rows = np.arange(sample.num_requests, dtype=np.int64)
    for name in sample.schema.sequence_columns:
        array = gather(requests[name], rows)
        values, offsets = list_parts(array)
        kept = np.minimum(np.diff(offsets), most)
        bounds = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        cut = values.take(pa.array(ranges(offsets[1:] - kept, kept)))
        mask = array.is_null() if array.null_count else None
        column = pa.LargeListArray.from_arrays(pa.array(bounds), cut, mask=mask)
        requests = requests.set_column(requests.column_names.index(name), name, column)
    return replace(sample, requests=requests)


def with_candidates(sample: LogSample, most: int) -> LogSample:
    """The sample with at most ``most`` impressions of every request, the first by position."""
    first = np.searchsorted(sample.inverse, np.arange(sample.num_requests))
    keep = np.arange(sample.num_impressions) - first[sample.inverse] < most
    kept = np.flatnonzero(keep).astype(np.int64)
    order = sample.arrival[keep[sample.arrival]]
    return replace(
        sample,
        impressions=gather_table(sample.impressions, kept),
        inverse=sample.inverse[kept],
        arrival=(np.cumsum(keep) - 1)[order].astype(np.int64),
    )


def curves(sample: LogSample, tuned: Encoding | None = None) -> tuple[Curve, ...]:
    """Measure both curves on a part of the sample that stays below 128 MiB as flat rows.

    Returns:
        The ratio of the sequence columns, flat shuffled over split, by longest history and by most candidates.
    """
    flat_bytes = sample.requests.nbytes * sample.num_impressions / max(1, sample.num_requests)
    pieces = max(1, round(flat_bytes / _CURVE_BYTES))
    if pieces > 1 and sample.num_users >= 2 * pieces:
        sample = sample.groups(pieces)[0]
    lengths = [
        np.diff(list_parts(gather(sample.requests[c], np.arange(sample.num_requests, dtype=np.int64)))[1])
        for c in sample.schema.sequence_columns
    ]
    longest = max((int(x.max(initial=0)) for x in lengths), default=0)
    widest = int(np.bincount(sample.inverse, minlength=1).max())
    return (
        _curve("longest history", _steps(longest), [with_newest(sample, n) for n in _steps(longest)], tuned),
        _curve("most candidates", _steps(widest), [with_candidates(sample, n) for n in _steps(widest)], tuned),
    )


def _steps(most: int) -> list[int]:
    return sorted({most // 2**i for i in range(_STEPS) if most // 2**i > 0})


def _curve(name: str, x: list[int], samples: list[LogSample], tuned: Encoding | None) -> Curve:
    ratios = []
    for sample in samples:
        names = sample.schema.sequence_columns
        shuffled = measure_layout(sample, BaselineLayout.FLAT_SHUFFLED, tuned).of(names)
        split = measure_layout(sample, BaselineLayout.SPLIT, tuned).of(names)
        ratios.append(shuffled / max(1, split))
    return Curve(name=name, x=tuple(x), ratio=tuple(ratios))
