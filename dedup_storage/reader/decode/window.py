"""A window: decoded requests and their impressions, encoded once, in their shuffled order.

Whatever is small for each row is put in order once, so that what a batch takes of it is a slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from dedup_storage.dedup.expand import offsets_from_lengths
from dedup_storage.dedup.runs import Int64
from dedup_storage.reader.decode.columns import Columns, encode_columns
from dedup_storage.reader.decode.encode import Forms
from dedup_storage.reader.decode.rows import RowOrder

__all__ = ["Window", "encode_window"]


@dataclass(frozen=True)
class Window:
    """Requests and impressions of one window, in its order.

    Attributes:
        requests: Encoded columns, one row per request.
        impressions: Encoded columns, grouped by request in the order of ``requests``.
        offsets: (num_requests + 1,) request r has the impressions offsets[r] to offsets[r + 1].
        lengths: (num_requests,) how many these are.
    """

    requests: Columns
    impressions: Columns
    offsets: Int64
    lengths: Int64

    @cached_property
    def bounds(self) -> memoryview:
        """``offsets``, of which single numbers are taken."""
        return self.offsets.data


def encode_window(
    requests: pa.Table, impressions: pa.Table, lengths: Int64, order: Int64 | None, forms: Forms
) -> Window:
    """Encode a window and put its requests, and the impressions of each, in another order.

    Args:
        requests: One row per request, as decoded.
        impressions: Grouped by request, in the order of ``requests``.
        lengths: Impressions of each request.
        order: Which request comes first, second, ...; ``None`` leaves them.
        forms: Form of each column.
    """
    if order is None:
        own, theirs = None, None
    else:
        own, theirs = RowOrder(order), RowOrder(order, offsets_from_lengths(lengths))
        lengths = lengths[order]
    return Window(
        encode_columns(requests, own, forms, keep=forms.shared),
        encode_columns(impressions, theirs, forms),
        offsets_from_lengths(lengths),
        np.ascontiguousarray(lengths, dtype=np.int64),
    )
