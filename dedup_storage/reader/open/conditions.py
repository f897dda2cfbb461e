"""Conditions on stored columns: which rows of the index they keep."""

from __future__ import annotations

import datetime as dt
import re
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
from dedup_storage.keys import PLAIN_INTEGER
from dedup_storage.reader.open.cut import CutTable
from dedup_storage.schema import Grain

__all__ = ["Condition", "kept_rows"]

_PLAIN = re.compile(PLAIN_INTEGER)
# Beyond it one float stands for several integers.
_EXACT = 2**53
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
        if pa.types.is_floating(self.type_):
            # Minus zero is zero, as it is to comparisons.
            zero = pa.scalar(0.0, self.type_)
            values, found = pc.add(values, zero), [pc.add(s, zero) for s in found]
        kept = pc.is_in(values, value_set=pa.array([s.as_py() for s in found], self.type_))
        return pc.or_(kept, pc.is_null(values)) if None in asked else pc.and_(kept, pc.is_valid(values))

    def _scalar(self, value: Any) -> pa.Scalar:
        try:
            reason = _other_value(value, self.type_)
            if reason is not None:
                raise ValueError(reason)
            if isinstance(value, str) and pa.types.is_timestamp(self.type_):
                return _moment(value, self.type_)
            if isinstance(value, int) and not isinstance(value, bool) and pa.types.is_decimal(self.type_):
                # Arrow's own integers end before those of 64 bits without a sign, which are stored so.
                return pa.scalar(Decimal(value)).cast(self.type_)
            if isinstance(value, float) and pa.types.is_decimal(self.type_):
                # As it is written: Arrow would round 1.005 to two digits.
                return pa.scalar(Decimal(repr(value))).cast(self.type_)
            return pa.scalar(value).cast(self.type_)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise ConfigError(
                f"the filter on {self.column} asks for a value that the column cannot hold",
                expected=str(self.type_),
                got=f"{value!r} ({str(error).splitlines()[0]})",
            ) from None


def _other_value(value: Any, kind: pa.DataType) -> str | None:
    """Why a value would become another one that a type has, in words; ``None`` where it would not."""
    types = pa.types
    if types.is_integer(kind):
        if isinstance(value, str) and not _PLAIN.match(value):
            return "no integer in its plain form"
        return "one float for several integers" if isinstance(value, float) and abs(value) > _EXACT else None
    if types.is_boolean(kind) and isinstance(value, int | float) and value not in (0, 1):
        return "neither true nor false"
    if types.is_date(kind) and isinstance(value, dt.datetime):
        clock = (value if value.tzinfo is None else value.astimezone(dt.UTC)).time()
        return "a time of a day" if clock != dt.time() else None
    if types.is_timestamp(kind) and isinstance(value, int | float):
        return "a number without a unit"
    texts = types.is_string(kind) or types.is_large_string(kind)
    return "no text" if texts and isinstance(value, bool | float) else None


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
