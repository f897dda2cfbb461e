"""A log as plain flat rows, for what reads files itself: forms applied, one row for each candidate. Pure Arrow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_storage.dedup import gather_table
from dedup_storage.dedup.expand import inverse_from_lengths
from dedup_storage.dedup.runs import Int64, single_chunk
from dedup_storage.errors import InputError, SchemaError
from dedup_storage.report.draw.users import uniform
from dedup_storage.schema import LogSchema
from dedup_storage.sources.check import check_source
from dedup_storage.sources.forms.arrow import standard_table
from dedup_storage.sources.forms.kinds import list_of
from dedup_storage.sources.forms.lists import Lists
from dedup_storage.sources.scratch import ScratchFolder, is_scratch
from dedup_storage.sources.source import Source

__all__ = ["flat_source", "is_made_plain", "measured_as_parquet", "standard_tables"]

# Flat rows that are made at once: each carries its request's lists.
_ROWS = 16_384


def standard_tables(source: Source, schema: LogSchema) -> Iterator[pa.Table]:
    """The rows in their standard columns, piece by piece.

    Raises:
        InputError, SchemaError: see ``standard_table``.
    """
    for table in source.tables():
        yield standard_table(table, schema)


def flat_source(source: Source, schema: LogSchema, scratch: str | None = None) -> tuple[Source, LogSchema]:
    """The log as flat rows in plain Parquet files, and their meaning; a log that is that already is given back.

    Args:
        source: The log.
        schema: Its meaning.
        scratch: Folder for the rows; this machine's temporary folder by default.

    Raises:
        SchemaError, UnsafeNameError: see ``check_source``: what ``write`` refuses is not measured either.
        InputError: a value is not what its form tells, or lists of candidates do not run in parallel.
    """
    check_source(source, schema)
    if not schema.forms and not schema.candidates:
        return measured_as_parquet(source), schema
    flat = schema.of_standard_rows()
    tables = standard_tables(source, schema)
    notes = (*source.notes, "its forms were applied: bytes are those of plain Parquet files of its rows")
    if schema.candidates:
        tables = (part for table in tables for part in _exploded(table, schema))
        flat = flat.model_copy(update={"candidates": {}})
        notes = (*source.notes, "the log has one row for each request: it is measured as one row for each candidate")
    store = source.address.store
    files = tuple(ScratchFolder(scratch, store).write(tables))
    if not files:
        raise InputError(f"{source.address.source} holds no rows", fix="Check the path.")
    filesystem, inner = store(files[0].path)
    with filesystem.open_input_file(inner) as stream:
        made = pq.ParquetFile(stream).schema_arrow.remove_metadata()
    return replace(source, files=files, schema=made, notes=notes, resolve=store), flat


def measured_as_parquet(source: Source) -> Source:
    """The source, with a note where its rows were made plain Parquet: their bytes are not those of its own files."""
    if not is_made_plain(source):
        return source
    return replace(source, notes=(*source.notes, "its bytes are those of plain Parquet files of its rows"))


def is_made_plain(source: Source) -> bool:
    """Whether a source's files are those that were made of a log, and not the log's own."""
    return any(is_scratch(file.path) for file in source.files)


def _exploded(table: pa.Table, schema: LogSchema) -> Iterator[pa.Table]:
    """One row for each candidate; a request without candidates has none."""
    lists = {c: Lists.of(single_chunk(table[c])) for c in schema.candidates}
    lengths = next(iter(lists.values())).lengths
    if any(not np.array_equal(lengths, other.lengths) for other in lists.values()):
        raise InputError(
            f"lists of candidates have different lengths in {table.num_rows} rows that were read together",
            expected=f"equal lengths of {', '.join(schema.candidates)}",
            fix="Correct the log, or candidates in the schema file.",
        )
    requests = table.drop_columns(list(schema.candidates))
    columns = dict(_candidate_columns(lists, schema))
    if schema.position is not None and schema.position not in columns:
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        columns[schema.position] = pa.array(np.arange(len(starts)) - starts, pa.int32())
    twice = [c for c in columns if c in requests.column_names]
    if twice:
        raise SchemaError(f"the impression column {twice[0]} is also a request column", fix="Rename it.")
    rows: Int64 = inverse_from_lengths(lengths)
    for start in range(0, len(rows), _ROWS):
        part = uniform(gather_table(requests, rows[start : start + _ROWS]))
        for name, values in columns.items():
            part = part.append_column(name, values.slice(start, _ROWS))
        yield _plain(part)


def _candidate_columns(lists: dict[str, Lists], schema: LogSchema) -> Iterator[tuple[str, pa.Array]]:
    for column, name in schema.candidates.items():
        values = lists[column].values
        if name != "*":
            yield name, values
        elif pa.types.is_struct(values.type):
            for at, field in enumerate(values.type):
                yield field.name, pc.struct_field(values, [at])
        else:
            raise SchemaError(
                f"the list {column} holds no structs",
                expected="a list of objects for '*'",
                got=str(values.type),
                fix=f"Name its impression column under candidates: {{{column}: item_id}}.",
            )


def _plain(table: pa.Table) -> pa.Table:
    """Lists in their plain form, whatever gathering made of them."""
    fields = [
        pa.field(f.name, list_of(f.type.value_type)) if pa.types.is_large_list(f.type) else f for f in table.schema
    ]
    return table.cast(pa.schema(fields))
