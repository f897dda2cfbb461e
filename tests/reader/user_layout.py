"""Datasets of layout ``user`` without Spark: logs with histories of many kinds, and the tables that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.table import Table

from dedup_storage.layout import (
    ROLE_PROPERTY,
    SPEC_PROPERTY,
    DatasetSpec,
    EventGroup,
    Layout,
    ProposedGroup,
    TableRole,
)
from dedup_storage.schema import DateGrain, LogSchema
from dedup_storage.windows import Events, Lists, Memory, Windows, events_after, match
from tests.reader.lake import Lake, Log, ddl, make_log

RUNS = pa.list_(pa.struct([("start", pa.int64()), ("length", pa.int32())]))
VIEWS, BUYS = ("items", "prices", "words"), ("buys",)
GROUPS = (ProposedGroup("views", VIEWS, False), ProposedGroup("bought", BUYS, True))


def make_histories(users: int = 9, requests_per_user: int = 8, *, string_users: bool = False, seed: int = 0) -> Log:
    """A log over two months whose histories slide, with late events, gaps, and lists that are no windows at all.

    The group ``views`` has numbers, numbers with NaNs and nulls, and text; ``buys`` begins with the newest.
    """
    log = make_log(users, requests_per_user, days=40, string_users=string_users, seed=seed)
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {name: [] for name in (*VIEWS, *BUYS)}
    for row in range(log.requests.num_rows):
        user, number = divmod(row, requests_per_user)
        items = np.arange(30 + 4 * number) * 1000 + user
        cut = items[-int(rng.integers(15, 25)) :].tolist()
        kind = row % 10
        if kind == 3:
            del cut[-9:-6]
        elif kind == 4:
            cut = rng.integers(0, 10**9, 5).tolist()
        elif kind == 5:
            cut = []
        elif kind == 7:
            cut[-2], cut[-1] = cut[-1], cut[-2]
        prices = [None if i % 7 == 0 else float("nan") if i % 5 == 0 else i / 3 for i in cut]
        rows["items"].append(None if kind == 6 else cut)
        rows["prices"].append(None if kind in (6, 8) else prices[:-1] if kind == 9 else prices)
        rows["words"].append(None if kind == 6 else [f"w{i % 11}" for i in cut])
        rows["buys"].append(None if row % 13 == 6 else items[: 3 + 2 * number][::-1].tolist())
    types = {"items": pa.int64(), "prices": pa.float64(), "words": pa.string(), "buys": pa.int64()}
    requests = log.requests.drop_columns(["history", "interests"])
    for name, values in rows.items():
        requests = requests.append_column(name, pa.array(values, pa.list_(types[name])))
    told = log.schema.to_dict()
    told["columns"].pop("interests")
    told["sequences"] = [*({"column": c} for c in VIEWS), {"column": "buys"}]
    return Log(LogSchema.from_dict(told), requests, log.impressions)


def write_user(
    lake: Lake,
    name: str,
    log: Log,
    groups: Sequence[ProposedGroup] = GROUPS,
    *,
    writes: int = 3,
    date_grain: DateGrain = DateGrain.MONTH,
    buckets: int = 2,
    row_group_rows: int | None = None,
) -> DatasetSpec:
    """Write version 1 of a dataset of layout ``user``.

    Args:
        writes: Event files are written in so many turns, as if the log had come in so many parts.
        row_group_rows: Most rows of a row group of the events.
    """
    tables = (log.requests, log.impressions)
    types = {f.name: ddl(f.type) for table in tables for f in table.schema}
    spec = DatasetSpec.build(
        name, log.schema, types, layout=Layout.USER, date_grain=date_grain, buckets=buckets, groups=groups
    )
    order = [(c, "ascending") for c in (log.schema.user, log.schema.event_time, *log.schema.request)]
    requests = log.requests.sort_by(order)
    parts = np.array_split(np.argsort(requests["event_date"].to_numpy(), kind="stable"), writes)
    lake.catalog.create_namespace(name)
    for group in spec.events:
        lists, turns = _group(requests, spec, group, [np.sort(part) for part in parts])
        requests = requests.drop_columns([c for c in lists.column_names if c in requests.column_names])
        for column in lists.column_names:
            requests = requests.append_column(column, lists[column])
        table = lake.create(
            f"{name}.{group.table}",
            turns[0].schema,
            spec.partitioned(group.table),
            {ROLE_PROPERTY: TableRole.EVENTS.value},
            row_group_rows,
        )
        for turn in turns:
            if turn.num_rows:
                lake.append(table, turn, (log.schema.user, group.position_column))
    for role, data in ((TableRole.IMPRESSIONS, log.impressions), (TableRole.REQUESTS, requests)):
        wanted = spec.table(role)
        properties = {ROLE_PROPERTY: role.value}
        if role is TableRole.REQUESTS:
            properties[SPEC_PROPERTY] = spec.to_json()
        table = lake.create(f"{name}.{wanted.name}", data.select(wanted.columns).schema, spec, properties)
        lake.append(table, data.select(wanted.columns), wanted.sort_columns)
        if role is TableRole.REQUESTS:
            _mend(lake.table(name, wanted.name), data, spec)
    lake.tag(name, 1)
    return spec


def _mend(table: Table, requests: pa.Table, spec: DatasetSpec) -> None:
    """Write the runs into the files again: PyIceberg stores a missing list of structs as an empty one."""
    keys = list(zip(*(requests[k].to_pylist() for k in spec.request_key), strict=True))
    runs = {g.runs_column: dict(zip(keys, requests[g.runs_column].to_pylist(), strict=True)) for g in spec.events}
    for task in table.scan().plan_files():
        path = task.file.file_path.removeprefix("file://")
        stored = pq.ParquetFile(path).read()
        own = list(zip(*(stored[k].to_pylist() for k in spec.request_key), strict=True))
        for column, known in runs.items():
            place = stored.schema.get_field_index(column)
            field = stored.schema.field(place)
            stored = stored.set_column(place, field, pa.array([known[k] for k in own], field.type))
        pq.write_table(stored, path)


def _group(
    requests: pa.Table, spec: DatasetSpec, group: EventGroup, turns: Sequence[np.ndarray]
) -> tuple[pa.Table, list[pa.Table]]:
    """The requests' columns of a group, and the events that each of several writes adds (row by row, the slow form)."""
    rows = {c: requests[c].to_pylist() for c in group.columns}
    keys = requests[spec.schema_.user].to_pylist()
    users = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    dates = requests["event_date"].to_pylist()
    kinds = {c: requests.schema.field(c).type.value_type for c in group.columns}
    found: list[list[dict[str, int]] | None] = [None] * len(keys)
    stored: Events | None = None
    memory: Memory | None = None
    tables = []
    for turn in turns:
        whole = [r for r in turn.tolist() if len({None if rows[c][r] is None else len(rows[c][r]) for c in rows}) == 1]
        whole = [r for r in whole if rows[group.columns[0]][r] is not None]
        step = -1 if group.newest_first else 1
        values = {c: pa.array([v for r in whole for v in rows[c][r][::step]], kinds[c]) for c in rows}
        lengths = [len(rows[group.columns[0]][r]) for r in whole]
        lists = Lists(
            np.array([users[keys[r]] for r in whole], dtype=np.int64),
            len(users),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            values,
        )
        windows: Windows = match(lists, stored, memory=memory)
        before = stored if stored is not None else Events.none(lists)
        tables.append(_events(spec, group, before, lists, windows, list(users), [dates[r] for r in whole], kinds))
        stored, memory = events_after(before, lists, windows), windows.memory
        for place, row in enumerate(whole):
            if not windows.kept[place]:
                a, b = windows.run_offsets[place : place + 2]
                pairs = zip(windows.starts[a:b].tolist(), windows.lengths[a:b].tolist(), strict=True)
                found[row] = [{"start": s, "length": n} for s, n in pairs]
    columns = {group.runs_column: pa.array(found, RUNS)}
    for c in rows:
        left = [v if runs is None else None for v, runs in zip(rows[c], found, strict=True)]
        columns[c] = pa.array(left, pa.list_(kinds[c]))
    return pa.table(columns), tables


def _events(
    spec: DatasetSpec,
    group: EventGroup,
    stored: Events,
    lists: Lists,
    windows: Windows,
    users: Sequence[Any],
    dates: Sequence[Any],
    kinds: dict[str, pa.DataType],
) -> pa.Table:
    new = windows.new
    owner = np.repeat(np.arange(len(users)), np.diff(windows.new_offsets))
    position = np.arange(len(new)) - windows.new_offsets[owner] + np.diff(stored.offsets)[owner]
    first_list = np.searchsorted(lists.offsets, new, side="right") - 1
    user = spec.schema_.user
    kind = pa.string() if isinstance(users[0], str) else pa.int64()
    return pa.table(
        {
            user: pa.array([users[o] for o in owner], kind),
            group.position_column: pa.array(position, pa.int64()),
            group.epoch_column: pa.array([dates[i].replace(day=1) for i in first_list], pa.date32()),
            **{c: lists.columns[c].take(pa.array(new)) for c in kinds},
        }
    )
