"""What the tuner found, in words and as table properties."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from dedup_storage.report.tune.search import ColumnTrial, Point, Trial, Tuner
from dedup_storage.words import human_bytes

__all__ = ["ColumnProposal", "Proposal", "iceberg_leaves", "propose"]

_SETTINGS = {
    "page_bytes": "page size",
    "row_group_bytes": "row-group size",
    "level": "zstd level",
    "page_version": "data page version",
}


class ColumnProposal(BaseModel):
    """The choice for one column, with what the other position of its dictionary switch came to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    dictionary: bool
    stored_bytes: int
    decode_seconds: float
    other_stored_bytes: int
    other_decode_seconds: float
    start_stored_bytes: int
    why: str


class Proposal(BaseModel):
    """Settings for one table.

    Attributes:
        table: Table name.
        rows: Rows of the draw.
        start_bytes, stored_bytes: The draw with the settings in use, and with those proposed.
        start_decode_seconds, decode_seconds: The same in processor time to decode all columns.
        trials: Points measured.
        settings: One line for each table-wide setting.
        columns: One for each column.
        properties: The Iceberg table properties that differ from those in use.
        rule: How the choice was made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    rows: int
    start_bytes: int
    stored_bytes: int
    start_decode_seconds: float
    decode_seconds: float
    trials: int
    settings: tuple[str, ...]
    columns: tuple[ColumnProposal, ...]
    properties: Mapping[str, str]
    rule: str


def iceberg_leaves(kind: pa.DataType, path: str) -> list[str]:
    """The leaf columns of a type as Iceberg names them. Example: a list column ``h`` -> ``["h.element"]``"""
    if pa.types.is_map(kind):
        return [*iceberg_leaves(kind.key_type, f"{path}.key"), *iceberg_leaves(kind.item_type, f"{path}.value")]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return iceberg_leaves(kind.value_type, f"{path}.element")
    if pa.types.is_struct(kind):
        return [leaf for f in kind for leaf in iceberg_leaves(f.type, f"{path}.{f.name}")]
    return [path]


def propose(table: str, tuner: Tuner, trial: Trial, *, properties: Mapping[str, str] | None = None) -> Proposal:
    """Describe a choice.

    Args:
        table: Table name.
        tuner: With the trials that led to it.
        trial: The choice.
        properties: The table's properties in use; those that stay are left out.
    """
    start = tuner.trial(tuner.start_point)
    leaves = {f.name: iceberg_leaves(f.type, f.name) for f in tuner.tables[0].schema}
    wanted = tuner.encoding(trial).to_properties(leaves)
    in_use = {**tuner.start.to_properties(leaves), **(properties or {})}
    return Proposal(
        table=table,
        rows=tuner.rows,
        start_bytes=_start_bytes(tuner, start),
        stored_bytes=trial.stored_bytes,
        start_decode_seconds=start.decode_seconds,
        decode_seconds=trial.decode_seconds,
        trials=len(tuner.trials.keys() | tuner.screened.keys()),
        settings=tuple(_why_setting(tuner, trial, setting) for setting in _SETTINGS),
        columns=tuple(_column(tuner, start, trial, name) for name in trial.columns),
        properties={key: value for key, value in wanted.items() if in_use.get(key) != value},
        rule=f"the smallest within {tuner.tolerance:.0%} of the fastest decode",
    )


def _at_start(tuner: Tuner, start: Trial, name: str) -> int:
    """Stored bytes of a column with the settings in use, its own switch included."""
    on = tuner.start.uses_dictionary(name)
    both = (start.columns[name], start.others[name])
    return next(t.stored_bytes for t in both if t.dictionary is on)


def _start_bytes(tuner: Tuner, start: Trial) -> int:
    return sum(_at_start(tuner, start, name) for name in start.columns)


def _column(tuner: Tuner, start: Trial, trial: Trial, name: str) -> ColumnProposal:
    # What came nowhere near with the settings in use was not written again.
    chosen, other = trial.columns[name], trial.others.get(name, start.others[name])
    here, there = ("on", "off") if chosen.dictionary else ("off", "on")
    why = f"dictionary {here}: {human_bytes(chosen.stored_bytes)} against {human_bytes(other.stored_bytes)} {there}"
    if chosen.stored_bytes == other.stored_bytes:
        why = "the dictionary makes no difference"
    elif chosen.stored_bytes > other.stored_bytes and chosen.decode_seconds < other.decode_seconds:
        why += f", decode {_ms(chosen)} against {_ms(other)}"
    elif chosen.stored_bytes > other.stored_bytes:
        why += ": not worth a change"
    return ColumnProposal(
        column=name,
        dictionary=chosen.dictionary,
        stored_bytes=chosen.stored_bytes,
        decode_seconds=chosen.decode_seconds,
        other_stored_bytes=other.stored_bytes,
        other_decode_seconds=other.decode_seconds,
        start_stored_bytes=_at_start(tuner, start, name),
        why=why,
    )


def _ms(trial: ColumnTrial) -> str:
    return f"{1000 * trial.decode_seconds:.1f} ms"


def _why_setting(tuner: Tuner, trial: Trial, setting: str) -> str:
    # What the search saw on the same rows with everything else equal: where it tried most.
    others: list[Trial] = []
    here, pool = trial, tuner.trials
    for seen in (tuner.trials, tuner.screened):
        for t in seen.values():
            beside = [o for p, o in seen.items() if p != t.point and _differs_only(p, t.point, setting)]
            if getattr(t.point, setting) == getattr(trial.point, setting) and len(beside) > len(others):
                here, others, pool = t, beside, seen
    shown = f"{_SETTINGS[setting]} {_value(setting, trial.point)}"
    same = [t for t in others if t.stored_bytes == here.stored_bytes]
    if not others:
        return f"{shown}: nothing else was tried"
    if len(same) == len(others):
        return f"{shown}: no other value changes the draw's bytes"
    fastest = min(t.decode_seconds for t in pool.values())
    parts = []
    for t in sorted(others, key=lambda t: getattr(t.point, setting)):
        slow = t.decode_seconds / fastest if fastest else 1.0
        late = f", decode {slow:.1f}x the fastest" if slow > 1 + tuner.tolerance else ""
        more = t.stored_bytes / max(1, here.stored_bytes) - 1
        parts.append(f"{_value(setting, t.point)}: {more:+.1%} bytes{late}")
    return f"{shown}: {'; '.join(parts)}"


def _differs_only(point: Point, other: Point, setting: str) -> bool:
    return all(getattr(point, s) == getattr(other, s) for s in _SETTINGS if s != setting)


def _value(setting: str, point: Point) -> str:
    value: int = getattr(point, setting)
    return f"{value / 1024**2:g} MiB" if setting.endswith("_bytes") else str(value)
