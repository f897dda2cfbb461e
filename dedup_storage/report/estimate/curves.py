"""How the ratio grows with the length of the histories and with the candidates of a request, other things equal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from dedup_storage.dedup import gather, gather_table, ranges
from dedup_storage.dedup.gather import list_parts
from dedup_storage.report.draw.users import LogDraw
from dedup_storage.report.estimate.baselines import BaselineLayout, measure_layout
from dedup_storage.report.model import Curve
from dedup_storage.report.parquet.encoding import Encoding

__all__ = ["curves", "with_candidates", "with_newest"]

_STEPS = 5
_CURVE_BYTES = 128 * 1024**2


def with_newest(draw: LogDraw, most: int) -> LogDraw:
    """The draw with every history cut to its newest ``most`` elements."""
    requests = draw.requests
    rows = np.arange(draw.num_requests, dtype=np.int64)
    for name in draw.schema.sequence_columns:
        array = gather(requests[name], rows)
        values, offsets = list_parts(array)
        kept = np.minimum(np.diff(offsets), most)
        bounds = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        cut = values.take(pa.array(ranges(offsets[1:] - kept, kept)))
        mask = array.is_null() if array.null_count else None
        column = pa.LargeListArray.from_arrays(pa.array(bounds), cut, mask=mask)
        requests = requests.set_column(requests.column_names.index(name), name, column)
    return replace(draw, requests=requests)


def with_candidates(draw: LogDraw, most: int) -> LogDraw:
    """The draw with at most ``most`` impressions of every request, the first by position."""
    first = np.searchsorted(draw.inverse, np.arange(draw.num_requests))
    keep = np.arange(draw.num_impressions) - first[draw.inverse] < most
    kept = np.flatnonzero(keep).astype(np.int64)
    order = draw.arrival[keep[draw.arrival]]
    return replace(
        draw,
        impressions=gather_table(draw.impressions, kept),
        inverse=draw.inverse[kept],
        arrival=(np.cumsum(keep) - 1)[order].astype(np.int64),
    )


def curves(draw: LogDraw, tuned: Encoding | None = None) -> tuple[Curve, ...]:
    """Measure both curves on a part of the draw that stays below 128 MiB as flat rows.

    Returns:
        The ratio of the sequence columns, flat shuffled over split, by longest history and by most candidates.
    """
    flat_bytes = draw.requests.nbytes * draw.num_impressions / max(1, draw.num_requests)
    pieces = max(1, round(flat_bytes / _CURVE_BYTES))
    if pieces > 1 and draw.num_users >= 2 * pieces:
        draw = draw.groups(pieces)[0]
    lengths = [
        np.diff(list_parts(gather(draw.requests[c], np.arange(draw.num_requests, dtype=np.int64)))[1])
        for c in draw.schema.sequence_columns
    ]
    longest = max((int(x.max(initial=0)) for x in lengths), default=0)
    widest = int(np.bincount(draw.inverse, minlength=1).max())
    return (
        _curve("longest history", _steps(longest), [with_newest(draw, n) for n in _steps(longest)], tuned),
        _curve("most candidates", _steps(widest), [with_candidates(draw, n) for n in _steps(widest)], tuned),
    )


def _steps(most: int) -> list[int]:
    return sorted({most // 2**i for i in range(_STEPS) if most // 2**i > 0})


def _curve(name: str, x: list[int], draws: list[LogDraw], tuned: Encoding | None) -> Curve:
    ratios = []
    for draw in draws:
        names = draw.schema.sequence_columns
        shuffled = measure_layout(draw, BaselineLayout.FLAT_SHUFFLED, tuned).of(names)
        split = measure_layout(draw, BaselineLayout.SPLIT, tuned).of(names)
        ratios.append(shuffled / max(1, split))
    return Curve(name=name, x=tuple(x), ratio=tuple(ratios))
