"""Conditions on stored columns: which rows of the index they keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.errors import ConfigError
from dedup_storage.reader.open.cut import CutTable
from dedup_storage.schema import Grain

__all__ = ["Condition", "kept_rows"]

_COMPARISONS = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


@dataclass(frozen=True)
class Condition:
    """What ``Filters.where`` asks of one column.

    Attributes:
        column: Its name.
        type_: Its Arrow type.
        grain: Grain of its values.
        table: The table that holds it.
        wanted: A value, a list of values, or comparisons with values; ``None`` among them is null.
    """

    column: str
    type_: pa.DataType
    grain: Grain
    table: CutTable
    wanted: Any

    def mask(self, values: pa.ChunkedArray) -> pa.ChunkedArray:
        """Which values it keeps; nulls are kept only where null is asked for.

        Raises:
            ConfigError: a value that is asked for is none of the column's type.
        """
        if isinstance(self.wanted, Mapping):
            parts = [_COMPARISONS[sign](values, self._scalar(value)) for sign, value in self.wanted.items()]
            return pc.fill_null(reduce(pc.and_, parts), False)
        listed = isinstance(self.wanted, Sequence) and not isinstance(self.wanted, str | bytes)
        asked = self.wanted if listed else [self.wanted]
        found = [self._scalar(value) for value in asked if value is not None]
        kept = pc.is_in(values, value_set=pa.array([s.as_py() for s in found], self.type_))
        return pc.or_(kept, pc.is_null(values)) if None in asked else pc.and_(kept, pc.is_valid(values))

    def _scalar(self, value: Any) -> pa.Scalar:
        try:
            if isinstance(value, str) and pa.types.is_timestamp(self.type_):
                return _moment(value, self.type_)
            if isinstance(value, int) and not isinstance(value, bool) and pa.types.is_decimal(self.type_):
                # Arrow's own integers end before those of 64 bits without a sign, which are stored so.
                return pa.scalar(Decimal(value)).cast(self.type_)
            return pa.scalar(value).cast(self.type_)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise ConfigError(
                f"the filter on {self.column} asks for a value that the column cannot hold",
                expected=str(self.type_),
                got=f"{value!r} ({str(error).splitlines()[0]})",
            ) from None


def _moment(text: str, type_: pa.DataType) -> pa.Scalar:
    """A time as text; without a zone it counts as UTC."""
    try:
        return pa.scalar(text).cast(pa.timestamp(type_.unit, "UTC")).cast(type_)
    except pa.ArrowInvalid:
        return pa.scalar(text).cast(pa.timestamp(type_.unit)).cast(type_)


def kept_rows(table: pa.Table, conditions: Sequence[Condition]) -> npt.NDArray[np.bool_] | None:
    """Which rows of a table satisfy all conditions; ``None`` for all of them."""
    masks = [np.asarray(c.mask(table[c.column]).to_numpy(), dtype=np.bool_) for c in conditions]
    return np.logical_and.reduce(masks) if masks else None
