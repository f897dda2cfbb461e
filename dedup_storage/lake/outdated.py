"""What of a feature group is out of date, from metadata alone: event dates and buckets whose inputs changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import date, timedelta

from dedup_storage.lake.cells import Cell
from dedup_storage.lake.facts import ERASING
from dedup_storage.lake.groups import Coverage, FeatureGroup, SourceKind, grain_table
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.layout import DatasetSpec

__all__ = ["looks_elsewhere", "read_names", "stale_cells"]

_ALL = (Cell(None, None, None),)
_WORD, _LAST_WORD = re.compile(r"\w+"), re.compile(r"\w+$")
# Words of expressions that read what they do not name: other queries, names made of texts, where rows lie.
_OTHERWISE = frozenset(
    {"select", "identifier", "input_file_name", "input_file_block_start", "input_file_block_length", "_metadata",
     "monotonically_increasing_id", "spark_partition_id"}
)  # fmt: skip


def stale_cells(
    meta: DatasetMetadata,
    spec: DatasetSpec,
    version: int,
    group: FeatureGroup,
    state: Callable[[str], int | None] | None = None,
) -> set[Cell]:
    """Event dates and buckets of a group whose inputs changed between what they were computed from and a version.

    A changed row concerns its own date and the days after it whose rows look back on it. A changed row of a looked up
    table may concern any row of the group. An erasure changes no row of the users that are left, unless rows of the
    group depend on other users. Of a backfill only those groups are out of date that read one of its columns, or of
    which nobody knows what they read.

    Args:
        meta: The dataset's tables.
        spec: The dataset.
        version: The version.
        group: The group.
        state: Today's state of a looked up table (``Lake.state``); left out, such tables are not looked at.
    """
    if state is not None and looks_elsewhere(group, state):
        return set(_ALL)
    reads = read_names(group)
    now, own = meta.snapshots(version), grain_table(spec, group.grain, group.sequence).name
    # Numbers of buckets are today's, and of a version of another count they tell nothing.
    of_all = group.across_users or meta.spec_of(version).buckets != meta.spec.buckets
    cells: set[Cell] = set()
    for part in group.coverage:
        start = date.fromisoformat(part.start) if part.start else None
        end = date.fromisoformat(part.end) - timedelta(days=1) if part.end else None
        if group.across_users and _erased_since(meta, part.version, version):
            cells.add(Cell(start, end, None))
            continue
        for table, snapshot_id in _inputs(meta, part).items():
            # A table that is gone held a group that this one reads; computing says so by name.
            changed = meta.changed_cells(table, snapshot_id, now[table], reads) if table in now else _ALL
            for cell in changed:
                reached = cell.stretched(group.lookback)
                reached = reached.of_all_buckets if of_all else reached
                if reached.overlaps(Cell(start, end, None)):
                    cells.add(reached)
    if not group.coverage:
        return set(_ALL)
    return _up_to_the_last(cells, meta.stored_cells(own, now[own])) if cells else cells


def read_names(group: FeatureGroup) -> frozenset[str] | None:
    """Names, in lower case, among which are those of all columns that a group's values follow from; ``None`` where that
    is not known: of functions of frames, and of frames.

    An expression reads no column whose name does not stand in it, but by a star or by a name that it makes.
    """
    source = group.source
    if source.kind is SourceKind.JOIN:
        return frozenset(column.lower() for column in source.on)
    if source.kind is not SourceKind.EXPRESSION:
        return None
    texts = source.expressions.values()
    words = frozenset(word.lower() for text in texts for word in _WORD.findall(text))
    return None if words & _OTHERWISE or any(map(_has_star, texts)) else words


def _has_star(text: str) -> bool:
    """Whether a star of an expression is none between two factors, so that it may stand for every column."""
    return not all(_ends_a_factor(before.rstrip()) for before in _before_stars(text))


def _before_stars(text: str) -> Iterator[str]:
    return (text[:at] for at, sign in enumerate(text) if sign == "*")


def _ends_a_factor(text: str) -> bool:
    word = _LAST_WORD.search(text)
    if word is not None:
        return word.group().lower() not in ("distinct", "all")
    return text.endswith((")", "]", "`", "'", '"'))


def _erased_since(meta: DatasetMetadata, computed: int, version: int) -> bool:
    """Whether users were erased after a version, until another one."""
    return any(meta.claim(n).get("job") == ERASING for n in meta.version_numbers if computed < n <= version)


def _inputs(meta: DatasetMetadata, part: Coverage) -> Mapping[str, int]:
    """Snapshots that a part was computed from: those of its version, which an erasure has committed anew."""
    if part.version not in meta.version_numbers:
        return part.snapshots
    anew = meta.snapshots(part.version)
    return {table: anew.get(table, snapshot_id) for table, snapshot_id in part.snapshots.items()}


def looks_elsewhere(group: FeatureGroup, state: Callable[[str], int | None]) -> bool:
    """Whether the table that a group looks up in has another state than when it was computed.

    Args:
        group: The group.
        state: Today's state of a table (``Lake.state``).
    """
    table = group.source.table if group.source.kind is SourceKind.JOIN else None
    if table is None:
        return False
    today = state(table)
    return any(part.lookups.get(table) != today for part in group.coverage)


def _up_to_the_last(cells: Iterable[Cell], stored: Iterable[Cell]) -> set[Cell]:
    """The cells without the days after the last that has rows."""
    ends = [c.high for c in stored]
    known = [e for e in ends if e is not None]
    if not known or len(known) < len(ends):
        return set(cells)
    last = max(known)
    cut = set()
    for cell in cells:
        beyond = cell.high is not None and cell.high > last and (cell.low is None or cell.low <= last)
        cut.add(replace(cell, high=last) if beyond else cell)
    return cut
