"""Datasets on disk by PyIceberg alone, laid out as the writer lays them out, from Arrow tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.transforms import BucketTransform, IdentityTransform, MonthTransform

from dedup_storage.config import Settings
from dedup_storage.lake.iceberg.catalog import pyiceberg_properties
from dedup_storage.layout import ROLE_PROPERTY, SPEC_PROPERTY, DatasetSpec, Layout, TableRole, version_tag
from dedup_storage.schema import DateGrain, LogSchema

_DDL = {
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.string(): "string",
    pa.bool_(): "boolean",
    pa.date32(): "date",
    pa.timestamp("us", tz="UTC"): "timestamp",
}


def ddl(type_: pa.DataType) -> str:
    """Spark's name of an Arrow type."""
    return f"array<{ddl(type_.value_type)}>" if pa.types.is_list(type_) else _DDL[type_]


@dataclass
class Log:
    """A log in both grains, unsorted order never assumed by the reader but made sorted here.

    Attributes:
        schema: Its meaning.
        requests: One row per request.
        impressions: One row per impression, with the request key and the position.
    """

    schema: LogSchema
    requests: pa.Table
    impressions: pa.Table

    @property
    def flat(self) -> pa.Table:
        """One row per impression, request columns repeated, built row by row with dictionaries (the slow form)."""
        key = list(self.schema.request_key)
        by_key = {tuple(r[k] for k in key): r for r in self.requests.to_pylist()}
        rows = [{**by_key[tuple(r[k] for k in key)], **r} for r in self.impressions.to_pylist()]
        fields = [
            *self.requests.schema,
            *(f for f in self.impressions.schema if f.name not in self.requests.column_names),
        ]
        return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def make_log(
    users: int = 12,
    requests_per_user: int = 5,
    candidates: int = 4,
    tokens: int = 6,
    *,
    days: int = 2,
    seed: int = 0,
    string_users: bool = False,
    nulls: bool = True,
    giant: int = 0,
    ragged: bool = True,
) -> Log:
    """A small log: ragged candidates (at least one), ragged histories (some empty, some null), text and nulls.

    Args:
        giant: Candidates of the first user's first request; 0 for no giant one.
        ragged: Whether candidates and histories vary in length.
    """
    rng = np.random.default_rng(seed)
    number = users * requests_per_user
    user = np.repeat(np.arange(users), requests_per_user)
    request = np.tile(np.arange(requests_per_user), users) + 1000 * user
    day = (np.arange(number) % days).astype("int32") + 19_000
    counts = rng.integers(1, 2 * candidates, number) if ragged else np.full(number, candidates)
    if giant:
        counts[0] = giant
    history = [
        None
        if nulls and i % 11 == 5
        else []
        if nulls and i % 7 == 3
        else rng.integers(0, 10**12, rng.integers(1, 2 * tokens) if ragged else tokens).tolist()
        for i in range(number)
    ]
    names = [f"usér-{u}-日" for u in range(users)]
    key = pa.array([names[u] for u in user]) if string_users else pa.array(user, pa.int64())
    requests = pa.table(
        {
            "user_id": key,
            "request_id": pa.array(request, pa.int64()),
            "event_date": pa.array(day, pa.date32()),
            "event_time": pa.array(
                day.astype("int64") * 86_400_000_000 + np.arange(number), pa.timestamp("us", tz="UTC")
            ),
            "age": pa.array([None if nulls and i % 5 == 2 else float(i) for i in range(number)], pa.float32()),
            "country": pa.array([None if nulls and i % 6 == 1 else ["DE", "FR", "日本"][i % 3] for i in range(number)]),
            "history": pa.array(history, pa.list_(pa.int64())),
            "interests": pa.array([[f"t{i % 4}", "x"][: i % 3] for i in range(number)], pa.list_(pa.string())),
        }
    )
    inverse = np.repeat(np.arange(number), counts)
    total = len(inverse)
    impressions = pa.table(
        {
            "user_id": key.take(pa.array(inverse)),
            "request_id": pa.array(request[inverse], pa.int64()),
            "event_date": pa.array(day[inverse], pa.date32()),
            "position": pa.array(np.concatenate([np.arange(c) for c in counts]), pa.int32()),
            "item_id": pa.array(rng.integers(0, 10**9, total), pa.int64()),
            "price": pa.array([None if nulls and i % 9 == 4 else i / 2 for i in range(total)], pa.float64()),
            "category": pa.array([f"c{i % 13}" for i in range(total)]),
            "label": pa.array(rng.integers(0, 2, total), pa.int32()),
        }
    )
    schema = LogSchema.from_dict(
        {
            "user": "user_id",
            "request": ["request_id"],
            "item": "item_id",
            "event_time": "event_time",
            "position": "position",
            "labels": ["label"],
            "sequences": [{"column": "history"}],
            "columns": {
                "event_date": "request",
                "age": "request",
                "country": "request",
                "interests": "request",
                "price": "impression",
                "category": "impression",
            },
        }
    )
    return Log(schema, requests, impressions)


class Lake:
    """Writes datasets into the catalog of some settings."""

    def __init__(self, settings: Settings) -> None:
        self._standing: set[str] = set()
        self.settings = settings
        self.catalog: Catalog = load_catalog(settings.catalog.name, **pyiceberg_properties(settings))

    def table(self, dataset: str, name: str) -> Table:
        """A table by name."""
        return self.catalog.load_table(f"{dataset}.{name}")

    def standing(self, name: str, log: Log, **options: Any) -> None:
        """Write a dataset that a module's tests share, once: a worker may come back to a module it has left."""
        if name not in self._standing:
            self.write(name, log, **options)
            self._standing.add(name)

    def write(
        self,
        name: str,
        log: Log,
        *,
        layout: Layout = Layout.SPLIT,
        date_grain: DateGrain = DateGrain.DAY,
        buckets: int = 4,
        files: int = 1,
        row_group_rows: int | None = None,
        page_bytes: int | None = None,
        cut: str = "rows",
    ) -> DatasetSpec:
        """Write version 1 of a dataset.

        Args:
            files: Files in every segment; more than one overlap in their keys, and split requests (flat layout and
                impressions) when ``cut`` is ``rows``.
            row_group_rows: Most rows of a row group.
            page_bytes: Size of a page.
            cut: How rows are dealt to files: ``rows`` (one in turn) or ``requests``.
        """
        names = [
            *log.requests.column_names,
            *(c for c in log.impressions.column_names if c not in log.requests.column_names),
        ]
        types = {f.name: ddl(f.type) for table in (log.requests, log.impressions) for f in table.schema}
        spec = DatasetSpec.build(
            name, log.schema, {n: types[n] for n in names}, layout=layout, date_grain=date_grain, buckets=buckets
        )
        self.catalog.create_namespace(name)
        for table_spec in spec.tables:
            data = {
                TableRole.LOGS: lambda: log.flat,
                TableRole.REQUESTS: lambda: log.requests,
                TableRole.IMPRESSIONS: lambda: log.impressions,
            }[table_spec.role]()
            data = data.select([c for c in table_spec.columns if c in data.column_names])
            properties = {ROLE_PROPERTY: table_spec.role.value}
            if table_spec == spec.anchor:
                properties[SPEC_PROPERTY] = spec.to_json()
            if page_bytes is not None:
                properties["write.parquet.page-size-bytes"] = str(page_bytes)
            table = self.create(f"{name}.{table_spec.name}", data.schema, spec, properties, row_group_rows)
            by = log.schema.request_key if cut == "requests" else None
            self.append(table, data, table_spec.sort_columns, files, by)
        self.tag(name, 1)
        return spec

    def create(
        self,
        identifier: str,
        schema: pa.Schema,
        spec: DatasetSpec,
        properties: Mapping[str, str],
        row_group_rows: int | None = None,
    ) -> Table:
        """An empty table, partitioned like the dataset."""
        if row_group_rows is not None:
            properties = {**properties, "write.parquet.row-group-limit": str(row_group_rows)}
        table = self.catalog.create_table(identifier, schema=schema, properties=dict(properties))
        iceberg: Schema = table.schema()
        with table.update_spec() as update:
            if spec.event_date_column is not None:
                transform: Any = IdentityTransform() if spec.date_grain is DateGrain.DAY else MonthTransform()
                update.add_field(spec.event_date_column, transform, f"{spec.event_date_column}_part")
            update.add_field(spec.schema_.user, BucketTransform(spec.buckets), "user_bucket")
        assert iceberg.fields
        return table

    def append(
        self, table: Table, data: pa.Table, sort: Sequence[str], files: int = 1, by: Sequence[str] | None = None
    ) -> None:
        """Append sorted files; row i goes to file i % files, or all rows of one key to the same file."""
        ordered = data.sort_by([(c, "ascending") for c in sort])
        if by is None:
            owner = np.arange(ordered.num_rows) % files
        else:
            keys = [tuple(r.values()) for r in ordered.select(list(by)).to_pylist()]
            numbers = {k: i for i, k in enumerate(dict.fromkeys(keys))}
            owner = np.array([numbers[k] % files for k in keys], dtype=np.int64)
        for file in range(files):
            part = ordered.filter(pa.array(owner == file))
            if part.num_rows:
                table.append(part)

    def tag(self, dataset: str, version: int, tables: Sequence[str] | None = None) -> None:
        """Publish the current snapshots of a dataset's tables as a version."""
        for identifier in self.catalog.list_tables(dataset):
            if tables is not None and identifier[-1] not in tables:
                continue
            table = self.catalog.load_table(identifier)
            snapshot = table.current_snapshot()
            if snapshot is not None:
                table.manage_snapshots().create_tag(snapshot.snapshot_id, version_tag(version)).commit()
