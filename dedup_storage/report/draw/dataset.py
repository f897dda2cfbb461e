"""Reading a draw of users of a dataset: of any layout, its requests with the lists that were logged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from dedup_storage.dedup.mixing import mix64
from dedup_storage.errors import InputError, SchemaError, UsageError
from dedup_storage.layout import EventGroup, Layout, TableRole
from dedup_storage.report.draw.event_lists import run_tokens, with_lists
from dedup_storage.report.draw.named import NamedUsers
from dedup_storage.report.draw.select import (
    DRAW_BYTES,
    Choice,
    DrawEngine,
    NoUsersError,
    check_share,
    chosen_rows,
    first_groups,
    no_users,
)
from dedup_storage.report.draw.users import LogDraw, from_frames
from dedup_storage.report.parquet.footers import OnFile, Totals
from dedup_storage.report.parquet.one_schema import plain_type
from dedup_storage.report.parquet.raw_bytes import raw_bytes, total_raw_bytes
from dedup_storage.report.parquet.tables import DatasetFiles, TableFiles
from dedup_storage.schema import Grain

__all__ = ["draw_dataset", "stored_rows"]


def draw_dataset(
    dataset: DatasetFiles,
    totals: dict[str, Totals],
    *,
    share: float | None = None,
    budget_bytes: int = DRAW_BYTES,
    on_file: OnFile | None = None,
    engine: DrawEngine | None = None,
    named: NamedUsers | None = None,
) -> LogDraw:
    """A draw of whole users of a dataset; files of other buckets are not opened.

    Args:
        dataset: A version's files.
        totals: Table name -> sums over its footers.
        share: Share of the users; ``None`` fits the budget.
        budget_bytes: Raw bytes of the draw's rows as a flat log.
        on_file: Called with the number of files read.
        engine: Draws the users' rows first, where there is too much to read here.
        named: The users of a named sample, in place of a share.

    Raises:
        UsageError: a named sample beside a share or an engine.
        SchemaError: the dataset has no sequence columns.
        InputError: the version has no rows, or the share none of its users.
        StorageError: names a file that cannot be read.
    """
    spec, schema = dataset.spec, dataset.spec.schema_
    reading = _Reading.of(dataset, totals, share, budget_bytes, on_file, engine, named)
    tables = {t.role: t for t in dataset.tables}
    if spec.layout is Layout.FLAT:
        flat = reading.rows(dataset.tables[0], (*spec.source_columns, spec.position_column))
        grains = schema.declared_grains()
        of_request = [c for c in flat.column_names if grains.get(c) == "request"]
        others = [c for c in flat.column_names if c not in of_request]
        return from_frames(
            schema, flat.select(of_request), flat.select([*schema.request_key, *others]), share=reading.share,
            position=spec.position_column,
        )  # fmt: skip
    requests, impressions = tables[TableRole.REQUESTS.value], tables[TableRole.IMPRESSIONS.value]
    rows = reading.rows(requests, (*spec.request_key, *spec.columns_of(Grain.REQUEST), *spec.runs_columns))
    if spec.events:
        types = totals[requests.name].arrow_schema
        events = {group.name: _events(dataset, group, reading, types) for group in spec.events}
        hidden = any(t.deleted_rows for t in dataset.tables if t.role == TableRole.EVENTS.value)
        rows = with_lists(spec, rows, events, repeated=hidden)
    # The date of a request stands beside its impressions too, and the position may be a column of the log.
    shown = reading.rows(impressions, (*spec.impression_key, *spec.columns_of(Grain.IMPRESSION)))
    return from_frames(schema, rows, shown, share=reading.share, position=spec.position_column)


def stored_rows(
    dataset: DatasetFiles,
    totals: Mapping[str, Totals],
    *,
    share: float | None = None,
    budget_bytes: int = DRAW_BYTES,
    on_file: OnFile | None = None,
) -> dict[str, pa.Table]:
    """Rows of chosen users as the tables of a dataset hold them, whose files hold whole users; see ``draw_dataset``.

    Returns:
        Table name -> its rows, in the order of its files; a table without rows of these users is left out.
    """
    reading = _Reading.of(dataset, totals, share, budget_bytes, on_file, None, None)
    found = {}
    for table in dataset.tables:
        try:
            found[table.name] = reading.rows(table, totals[table.name].arrow_schema.names)
        except NoUsersError:
            if table.role != TableRole.EVENTS.value:
                raise
    return found


@dataclass(frozen=True)
class _Reading:
    """Reads the rows of one choice of users from the tables of a dataset.

    Attributes:
        share: Of all users.
        choice: Who, and in which files.
    """

    dataset: DatasetFiles
    totals: Mapping[str, Totals]
    share: float
    choice: Choice
    on_file: OnFile | None
    engine: DrawEngine | None

    @classmethod
    def of(
        cls,
        dataset: DatasetFiles,
        totals: Mapping[str, Totals],
        share: float | None,
        budget_bytes: int,
        on_file: OnFile | None,
        engine: DrawEngine | None,
        named: NamedUsers | None,
    ) -> _Reading:
        """Choose; the arguments are those of ``draw_dataset``."""
        spec, anchor = dataset.spec, dataset.tables[0]
        if totals[anchor.name].rows == 0:
            raise InputError(f"the version {dataset.version} of {spec.name} has no rows to measure")
        if not spec.schema_.sequence_columns:
            raise SchemaError(f"the dataset {spec.name} has no sequence columns")
        if named is None:
            asked = check_share(share, budget_bytes, _raw_bytes(dataset, totals))
            choice = _by_bucket(asked, anchor)
        elif share is None and engine is None:
            asked, choice = named.share, Choice(named.share, named.buckets, named.selector)
        else:
            what = "the sample is named, and is to be drawn too"
            raise UsageError(what, expected="a named sample, or a share of users")
        return cls(dataset, totals, asked, choice, on_file, engine)

    def rows(self, table: TableFiles, wanted: Sequence[str]) -> pa.Table:
        """Columns of a table, of those wanted that it has.

        Raises:
            NoUsersError: it has no row of these users.
        """
        totals, user = self.totals[table.name], self.dataset.spec.schema_.user
        columns = [c for c in dict.fromkeys(wanted) if c in totals.arrow_schema.names]
        if not totals.rows:
            raise no_users(self.share)
        source, chosen = table, self.choice
        if self.engine is not None and self.share < 1:
            source = replace(table, files=tuple(chosen.files(table)))
            source, chosen = self.engine(source, user, chosen.share, columns).table, Choice(1.0)
        elif totals.mixed:
            source, chosen = _one_schema(table, totals, columns, chosen), replace(chosen, buckets=None)
        rows = list(chosen_rows(source, chosen, user, columns, totals, self.on_file))
        if not rows:
            raise no_users(self.share)
        return pa.concat_tables(rows)


def _raw_bytes(dataset: DatasetFiles, totals: Mapping[str, Totals]) -> int:
    """Raw bytes of the dataset as a flat log."""
    own = {t.name: total_raw_bytes(totals[t.name]) for t in dataset.tables}
    if not dataset.spec.layout.divided:
        return own[dataset.tables[0].name]
    by_role = {t.role: t.name for t in dataset.tables}
    requests, impressions = by_role[TableRole.REQUESTS.value], by_role[TableRole.IMPRESSIONS.value]
    factor = totals[impressions].rows / totals[requests].rows
    lists = _list_bytes(dataset, totals)
    return round((own[requests] + lists) * max(1.0, factor)) + own[impressions]


def _list_bytes(dataset: DatasetFiles, totals: Mapping[str, Totals]) -> int:
    """Raw bytes of the lists that requests of layout ``user`` have no copy of, from the runs of some of them."""
    groups = dataset.spec.events
    if not groups:
        return 0
    anchor = dataset.tables[0]
    probed = list(first_groups(anchor, [group.runs_column for group in groups]))
    rows, total = max(1, sum(part.num_rows for part in probed)), 0.0
    for group in groups:
        tokens = sum(run_tokens(part[group.runs_column]) for part in probed)
        events = totals[group.table]
        there = [(events.arrow_schema.field(c).type, events.columns[c]) for c in group.columns if c in events.columns]
        raw = sum(raw_bytes(kind, column, events.rows)[0] for kind, column in there)
        total += tokens / rows * totals[anchor.name].rows * raw / max(1, events.rows)
    return round(total)


def _events(dataset: DatasetFiles, group: EventGroup, reading: _Reading, types: pa.Schema) -> pa.Table:
    """The chosen users' events of a group; none where their requests have no windows."""
    user = dataset.spec.schema_.user
    wanted = (user, group.position_column, *group.columns)
    try:
        return reading.rows(next(t for t in dataset.tables if t.name == group.table), wanted)
    except NoUsersError:
        # Whether a request refers to one all the same is seen when its lists are made.
        kinds = {c: types.field(c).type.value_type for c in group.columns}
        own = {user: types.field(user).type, group.position_column: pa.int64()}
        return pa.schema(list({**own, **kinds}.items())).empty_table()


def _one_schema(table: TableFiles, totals: Totals, columns: Sequence[str], choice: Choice) -> TableFiles:
    """The files that a choice reads, with the one schema of a table whose files differ: a column that a file lacks, for
    it was added later, is null in its rows."""
    types = [(c, _plain(totals.arrow_schema.field(c).type)) for c in columns]
    # Partitions are of the table, not of the log: a new column may have the name of one.
    files = tuple(replace(file, partition={}) for file in choice.files(table))
    return replace(table, files=files, arrow_schema=pa.schema(types))


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without its encoding; one that has no plain form stays, for no file has it otherwise."""
    try:
        return plain_type(kind)
    except ValueError:
        return kind


def _by_bucket(share: float, anchor: TableFiles) -> Choice:
    """Restrict a share to whole buckets as far as possible: a bucket is a hash of the user, so this stays fair."""
    present = sorted({f.partition["bucket"] for f in anchor.files if "bucket" in f.partition})
    if share >= 1 or len(present) < 2:
        return Choice(share)
    wanted = min(len(present), math.ceil(share * len(present)))
    order = np.argsort(mix64(np.arange(len(present), dtype=np.uint64)))
    return Choice(share * len(present) / wanted, frozenset(present[i] for i in order[:wanted]))
