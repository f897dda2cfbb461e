"""Raw logs as teams have them: flat rows, request rows with lists of candidates, or two frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import cast

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dedup_storage.errors import SchemaError, known_names
from dedup_storage.lake.engine.plans import planned_bytes
from dedup_storage.lake.engine.sessions import move_to
from dedup_storage.lake.engine.stores import require_file_system, session_scratch, session_store
from dedup_storage.schema import Grain, LogSchema, check_name
from dedup_storage.sources.absent import ColumnChoice, without_absent
from dedup_storage.sources.address import Address, Kind
from dedup_storage.sources.check import check_source, other_keys, refuse_inner
from dedup_storage.sources.declared import refuse_other_types
from dedup_storage.sources.exact import exact_cast
from dedup_storage.sources.forms.spark import standard_frames
from dedup_storage.sources.frames import arrow_types, source_frame
from dedup_storage.sources.newest import cut_to_newest, newest_only
from dedup_storage.sources.origin import Origin
from dedup_storage.sources.reserved import refuse_reserved, refuse_twice
from dedup_storage.sources.source import Source, open_source
from dedup_storage.sources.times import with_times
from dedup_storage.sources.unchanged import require_unchanged
from dedup_storage.sources.wanted import wanted_columns
from dedup_storage.spark.errors import translated
from dedup_storage.spark.types import check_types, ddl, struct_of

__all__ = ["POINTER", "Form", "RawLog"]

POINTER = "_dedup_pointer"


class Form(StrEnum):
    """The shape of a raw log."""

    FLAT = "flat"
    NESTED = "nested"
    FRAMES = "frames"


@dataclass(frozen=True)
class RawLog:
    """A raw log.

    Attributes:
        schema: Its meaning.
        form: Its shape.
        frame: Impression rows (flat), or request rows (nested, frames).
        candidates: Impression rows of two frames, else ``None``.
        located: The frame is read straight from Parquet files, so each row has a file and a row number.
        notes: What was done with the columns on reading, to be said.
        origins: ``log``, and ``impressions`` of two sources, each with where it was read from; none for frames at hand.
        lying: Addresses of files that are read as they lie, more than once.
        kind: How it is written; ``None`` for frames at hand.
        nulls: Impression columns that nested rows do not have and that are null: name and Spark DDL type.
        positions: Column of the impression rows with positions that an earlier write assigned; the schema has none.
    """

    schema: LogSchema
    form: Form
    frame: DataFrame
    candidates: DataFrame | None = None
    located: bool = False
    notes: tuple[str, ...] = ()
    origins: tuple[tuple[str, Origin], ...] = ()
    lying: tuple[Address, ...] = ()
    kind: Kind | None = None
    nulls: tuple[tuple[str, str], ...] = ()
    positions: str | None = None

    @classmethod
    def read(
        cls,
        spark: SparkSession,
        source: str | Source,
        *,
        schema: LogSchema,
        format: str | None = None,
        impressions: str | Source | None = None,
        types: Mapping[str, str] | None = None,
        fill_columns: ColumnChoice = None,
        scratch: str | None = None,
    ) -> RawLog:
        """Open a log.

        Args:
            spark: Session to read with.
            source: Path or URI of files or a folder, of a Delta or Iceberg table's folder, or a table's name; or
                one that is open.
            schema: Its meaning; with ``candidates`` it is read as nested.
            format: ``parquet``, ``csv``, ``tsv``, ``json`` (lines), ``delta``, ``iceberg`` or ``table``, where names do
                not tell.
            impressions: Second source, of impression rows, when ``source`` holds request rows.
            types: Column -> Spark DDL type of the dataset that the rows go into; used where no value changes.
            fill_columns: Columns of the schema that the log may lack, by name, or ``all``; ``Dataset.write`` makes
                nulls of them.
            scratch: Folder, which this machine and the cluster both reach, for rows that are no plain Parquet; by
                default the settings' (``spark.scratch``), and without a cluster this machine's temporary folder.

        Raises:
            ConfigError: the session runs on a cluster, and rows that are no plain Parquet have no folder.
            InputError: it cannot be read.
            SchemaError: a column is missing or has the wrong type.
        """
        wanted = wanted_columns(schema, types)

        def opened(place: str, needed: tuple[str, ...]) -> Source:
            folder = scratch if scratch is not None else session_scratch(spark, place)
            return open_source(
                place, format=format, wanted=replace(wanted, needed=needed), scratch=folder, store=session_store(spark)
            )

        with translated():
            for place in (source, impressions):
                if isinstance(place, str):
                    require_file_system(spark, place)
            of_log = wanted.needed if impressions is None else schema.request_key
            log = source if isinstance(source, Source) else opened(source, of_log)
            other = opened(impressions, wanted.needed) if isinstance(impressions, str) else impressions
            if fill_columns and log.schema:
                here = [f.name for s in (log, other) if s is not None for f in s.schema]
                schema = without_absent(schema, here, fill_columns)
            check_source(log, schema, impressions=other)
            frame, second, notes = source_frame(spark, log), None, log.notes
            if other is not None:
                second, notes = source_frame(spark, other), (*notes, *other.notes)
            if fill_columns and not log.schema:
                # A table's columns are known to Spark alone.
                here = [*frame.columns, *(second.columns if second is not None else ())]
                schema = without_absent(schema, here, fill_columns)
            if not log.schema:
                lying = {**arrow_types(frame.schema), **({} if second is None else arrow_types(second.schema))}
                refuse_other_types(schema, lying, (*frame.columns, *schema.made_by_forms), log.address.source)
            frame, second = standard_frames(frame, second, schema)
            frame, schema, said = with_times(frame, schema)
            notes = (*notes, *said)
        made = cls.from_frame(frame, schema.of_standard_rows(), second)
        origins = [("log", Origin.of(log.address))]
        if other is not None:
            origins.append(("impressions", Origin.of(other.address)))
        notes = (*notes, *(f"lists of {s.column} are cut to their newest {s.max_length}" for s in newest_only(schema)))
        located = log.address.kind is not Kind.TABLE
        kept = tuple(s.address for s in (log, other) if s is not None and s.lies)
        return replace(
            made, schema=schema, located=located, notes=notes, origins=tuple(origins), lying=kept, kind=log.address.kind
        )

    @classmethod
    def from_frame(
        cls,
        frame: DataFrame,
        schema: LogSchema,
        impressions: DataFrame | None = None,
        *,
        fill_columns: ColumnChoice = None,
        positions: str | None = None,
    ) -> RawLog:
        """A log that is a DataFrame already; the schema's forms are applied to it.

        Args:
            frame: Its rows; of two frames the request rows.
            schema: Its meaning.
            impressions: The impression rows of two frames.
            fill_columns: As for ``read``.
            positions: Column of the impression rows with positions to keep, where the schema names none.

        Raises:
            SchemaError: a column is missing or has the wrong type.
        """
        with translated():
            if fill_columns:
                here = [*frame.columns, *(impressions.columns if impressions is not None else ())]
                schema = without_absent(schema, here, fill_columns)
            frame, impressions = standard_frames(frame, impressions, schema)
        form = Form.FRAMES if impressions is not None else Form.NESTED if schema.candidates else Form.FLAT
        frame, schema, _ = with_times(frame, schema, declared=True)
        raw = cls(schema, form, cut_to_newest(frame, schema), impressions, positions=positions)
        raw._check()
        return raw

    def _check(self) -> None:
        names = list(self.frame.columns)
        if self.candidates is not None:
            for key in self.schema.request_key:
                for frame, what in ((self.frame, "requests"), (self.candidates, "impressions")):
                    if key not in frame.columns:
                        raise SchemaError(
                            f"the key column {key} is not in the {what}", expected=known_names(key, frame.columns)
                        )
                here, there = (frame.schema[key].dataType for frame in (self.frame, self.candidates))
                none = F.lit(None)
                if exact_cast(none, here, there) is None and exact_cast(none, there, here) is None:
                    raise other_keys(key, here.simpleString(), there.simpleString())
            names += self.candidates.columns
        names = [name for name in names if name != self.positions]
        self.schema.require_columns(names)
        refuse_reserved(names)
        refuse_twice(self.frame.columns)
        for name in names:
            check_name(name, "column name")
        fields = list(self.frame.schema.fields)
        if self.candidates is not None:
            fields += [f for f in self.candidates.schema.fields if f.name not in self.frame.columns]
        check_types(self.schema, fields)
        if self.form is Form.NESTED:
            refuse_inner(self.schema, self.frame.columns, [name for _, name in self._spread()])

    def require_unchanged(self) -> None:
        """Refuse files that others took the place of since the log was opened.

        Raises:
            InputError: names the first one.
        """
        for address in self.lying:
            require_unchanged(address)

    def with_nulls(self, grains: Mapping[str, Grain], types: Mapping[str, str]) -> RawLog:
        """The log with columns that it lacks, null in every row.

        Args:
            grains: The columns, and which rows they belong to.
            types: Their Spark DDL types.
        """
        kinds = struct_of({c: types[c] for c in grains})
        null = {c: F.lit(None).cast(kinds[c].dataType) for c in grains}
        below = [c for c, grain in grains.items() if grain is Grain.IMPRESSION and self.form is not Form.FLAT]
        above = {c: value for c, value in null.items() if c not in below}
        made = replace(self, frame=self.frame.withColumns(above)) if above else self
        if self.candidates is not None and below:
            return replace(made, candidates=self.candidates.withColumns({c: null[c] for c in below}))
        return replace(made, nulls=(*self.nulls, *((c, types[c]) for c in below)))

    def with_types(self, types: Mapping[str, str]) -> RawLog:
        """The log with columns in other types, where the cast changes no value by its kind; others stay."""
        second = None if self.candidates is None else _cast(self.candidates, types)
        return replace(self, frame=_cast(self.frame, types), candidates=second)

    def in_session(self, session: SparkSession) -> RawLog:
        """The same log, read with another session's settings."""
        second = move_to(session, self.candidates) if self.candidates is not None else None
        return replace(self, frame=move_to(session, self.frame), candidates=second)

    def located_frame(self) -> DataFrame:
        """The frame with a pointer to each row, a hash of its file and row number (``located`` logs only)."""
        return self.frame.select("*", F.xxhash64("_metadata.file_path", "_metadata.row_index").alias(POINTER))

    def request_rows(self) -> DataFrame:
        """Request rows without their candidates (nested and two-frame logs)."""
        return self.frame.drop(*self.schema.candidates)

    def impression_rows(self, keep: Mapping[str, Column], position: str | None) -> DataFrame:
        """Impression rows: the keys, the columns of ``keep`` (request grain), and every impression column.

        Args:
            keep: Column name -> expression over a request row (or, with two frames, over both).
            position: Where to put the candidate's ordinal in a list; ``None`` to leave it out.
        """
        keys = self.schema.request_key
        if self.form is Form.FLAT:
            return self.frame.select("*", *(c.alias(n) for n, c in keep.items()))
        if self.candidates is not None:
            if not keep:
                return self.candidates
            narrow = self.frame.select(*keys, *(c.alias(n) for n, c in keep.items()))
            rest = [c for c in self.candidates.columns if c not in keep]
            return self.candidates.select(*rest).join(narrow, list(keys))
        lists = list(self.schema.candidates)
        zipped = (
            F.arrays_zip(*lists) if len(lists) > 1 else F.transform(lists[0], lambda x: F.struct(x.alias(lists[0])))
        )
        exploded = self.frame.select(
            *keys, *(c.alias(n) for n, c in keep.items()), F.posexplode(zipped).alias("_dedup_pos", "_dedup_item")
        )
        columns = [F.col(f"_dedup_item.{source}").alias(name) for source, name in self._spread()]
        ordinal = [F.col("_dedup_pos").alias(position)] if position else []
        kinds = struct_of(dict(self.nulls))
        nulls = [F.lit(None).cast(f.dataType).alias(f.name) for f in kinds.fields]
        return exploded.select(*keys, *keep, *ordinal, *columns, *nulls)

    def _spread(self) -> list[tuple[str, str]]:
        """(path inside the zipped candidate, impression column) of nested input."""
        pairs = []
        for column, name in self.schema.candidates.items():
            element = self._element(column)
            if name != "*":
                pairs.append((f"`{column}`", name))
            elif isinstance(element, T.StructType):
                pairs += [(f"`{column}`.`{f.name}`", f.name) for f in element.fields]
            else:
                raise SchemaError(
                    f"the list {column} holds no structs",
                    expected="array<struct<…>> for '*'",
                    got=element.simpleString(),
                    fix=f"Name its impression column under candidates: {{{column}: item_id}}.",
                )
        return pairs

    def _element(self, column: str) -> T.DataType:
        return cast(T.ArrayType, self.frame.schema[column].dataType).elementType

    def flat_fields(self) -> list[T.StructField]:
        """Columns of the flat form, in order, with their types.

        Raises:
            SchemaError: an impression column has the name of a request column.
        """
        fields = list(self.request_fields())
        known = {f.name.lower() for f in fields}
        for field in self.impression_fields():
            if field.name.lower() in known:
                raise SchemaError(f"the impression column {field.name} is also a request column", fix="Rename it.")
            fields.append(field)
        fields = list(self.frame.schema.fields) if self.form is Form.FLAT else fields
        return [f for f in fields if f.name != self.positions]

    def request_fields(self) -> list[T.StructField]:
        """Columns of request rows (nested and two-frame logs)."""
        if self.form is Form.FLAT:
            return []
        return [f for f in self.frame.schema.fields if f.name not in self.schema.candidates]

    def impression_fields(self) -> list[T.StructField]:
        """Columns that only impression rows have (nested and two-frame logs)."""
        if self.candidates is not None:
            keys = self.schema.request_key
            return [f for f in self.candidates.schema.fields if f.name not in keys]
        if self.form is Form.FLAT:
            return []
        rows = self.impression_rows({}, None)
        return [f for f in rows.schema.fields if f.name not in self.schema.request_key]

    def source_types(self) -> dict[str, str]:
        """Flat column -> Spark DDL type."""
        return {f.name: ddl(f.dataType) for f in self.flat_fields()}

    def stored_bytes(self) -> int:
        """Size of the input as Spark's planner knows it: of files their stored bytes."""
        frames = [self.frame] + ([self.candidates] if self.candidates is not None else [])
        return sum(map(planned_bytes, frames))


def _cast(frame: DataFrame, types: Mapping[str, str]) -> DataFrame:
    wanted = struct_of(types)
    columns = []
    for field in frame.schema.fields:
        made = (
            exact_cast(F.col(field.name), field.dataType, wanted[field.name].dataType) if field.name in types else None
        )
        columns.append(F.col(field.name) if made is None else made.alias(field.name))
    return frame.select(*columns)
