"""One source of rows, whatever the command that asks: its files, one schema over them, rows for Arrow and for Spark.

address  ->  what it is, which files it has now            (address.py)
         ->  one schema over them, or a refusal            (union.py)
         ->  files that Spark and Arrow read alike         (as they lie, or made plain in a scratch folder)
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.parquet as pq

from dedup_storage.config import Settings
from dedup_storage.errors import InputError
from dedup_storage.lake.folders import Store
from dedup_storage.layout import TableRole
from dedup_storage.report.parquet.footers import DataFile, Resolve
from dedup_storage.report.parquet.one_schema import (
    conform,
    file_schema,
    index_columns,
    is_plain,
    one_schema,
    open_parquet,
)
from dedup_storage.report.parquet.tables import TableFiles
from dedup_storage.sources.address import Address, Kind, find_address
from dedup_storage.sources.columns import Wanted, refuse_empty_types, with_partitions, with_types
from dedup_storage.sources.damaged import unreadable
from dedup_storage.sources.foreign import delta_input, iceberg_rows
from dedup_storage.sources.json_lines import json_tables, one_number
from dedup_storage.sources.listing import is_passed_over, told_columns
from dedup_storage.sources.old_calendar import refuse_old_calendar
from dedup_storage.sources.reserved import refuse_repeated, refuse_reserved
from dedup_storage.sources.scratch import Parent, ScratchFolder
from dedup_storage.sources.texts import TextColumns, csv_batches, dialects, typed
from dedup_storage.sources.unchanged import require_unchanged
from dedup_storage.sources.unsigned import UNSIGNED, fits_signed

__all__ = ["Source", "Wanted", "open_source", "read_schemas"]

_JSON_REMEDY = 'Write {} alike in every line: as numbers, or as texts in quotes ("5").'
_THREADS = 16
_BATCH_ROWS = 65_536
# A byte of a letter that has several, as URLs code it.
_CODED = re.compile(r"%[89A-Fa-f][0-9A-Fa-f]")
# A codec and an encoding that Spark's reader does not have.
_ARROW_ALONE = frozenset({"BROTLI", "BYTE_STREAM_SPLIT"})


@dataclass(frozen=True)
class Source:
    """Rows from outside.

    Attributes:
        address: What was asked for.
        files: Parquet files that hold the rows, in order of arrival; none for a table, which Spark reads by name.
        schema: One schema over all of them, partition columns of the paths included.
        notes: What was done with the columns, to be said.
        resolve: Finds the file system of a file.
        origins: File -> the file that its rows were made of, where it is another one.
    """

    address: Address
    files: tuple[DataFile, ...] = ()
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))
    notes: tuple[str, ...] = ()
    resolve: Resolve = field(default_factory=Store)
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def partitions(self) -> tuple[str, ...]:
        """Columns that stand in the files' paths alone."""
        found = dict.fromkeys(k for f in self.files for k in f.partition)
        return tuple(k for k in found if k in self.schema.names)

    @property
    def lies(self) -> bool:
        """Whether its files are read as they lie, and not as a copy in a scratch folder."""
        return self.files == self.address.files

    def require_unchanged(self) -> None:
        """Refuse files that others took the place of since it was opened; a copy stays as it is.

        Raises:
            InputError: names the first one.
        """
        if self.lies:
            require_unchanged(self.address)

    def table(self) -> TableFiles:
        """The source as a flat log for reports and estimates."""
        return TableFiles(
            self.address.source, TableRole.LOGS.value, self.files, resolve=self.resolve, arrow_schema=self.schema
        )

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows in the one schema, piece by piece.

        Args:
            columns: Some of them; all by default.
        """
        schema = self.schema if columns is None else pa.schema([self.schema.field(c) for c in columns])
        for file in self.files:
            for batch in _batches(file, schema.names, self.resolve):
                try:
                    yield conform(pa.Table.from_batches([batch]), schema, file.partition)
                except pa.ArrowInvalid as error:
                    raise _unfit(self.origins.get(file.path, file.path), error, self.address.kind) from None


def _batches(file: DataFile, columns: Sequence[str], resolve: Resolve) -> Iterator[pa.RecordBatch]:
    """The rows of a file, no batch of several row groups: nested dictionaries differ between them."""
    filesystem, inner = resolve(file.path)
    try:
        with filesystem.open_input_file(inner) as stream:
            parquet = open_parquet(stream)
            there = [c for c in columns if c in parquet.schema_arrow.names]
            for group in range(parquet.num_row_groups):
                yield from parquet.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group], columns=there)
    except pa.ArrowNotImplementedError as error:
        raise InputError(
            f"the file {file.path} cannot be read by Arrow: {str(error).splitlines()[0]}",
            expected="nested columns whose dictionaries do not change inside a row group",
            fix="Write it with smaller row groups, or without dictionaries inside lists, maps and structs.",
        ) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise unreadable(file.path, error, resolve) from error


def open_source(
    source: str,
    *,
    format: str | None = None,
    wanted: Wanted | None = None,
    settings: Settings | None = None,
    scratch: Parent = None,
    store: Store | None = None,
) -> Source:
    """Open a source of rows.

    Args:
        source: A file, a folder, a pattern of files, a Delta or Iceberg table's folder, or a table's name.
        format: Its kind, where names do not tell.
        wanted: What is known of its columns.
        settings: Where the catalog of table names is; without it tables are left to Spark.
        scratch: Folder for rows that are made plain Parquet, or what names it when some are; this machine's temporary
            folder by default.
        store: Opens files and folders; by default by the settings, and without them as this machine is set up.

    Raises:
        InputError: there is nothing, it is of a kind that is not read, or its files cannot be one; says why.
        SchemaError: a column has a name that is taken.
    """
    known = wanted or Wanted()
    if store is None and settings is not None:
        store = Store(settings.catalog.properties)
    address = find_address(source, format, store)
    if known.header and address.kind not in (Kind.CSV, Kind.TSV):
        raise InputError(
            f"the schema names the columns of files without a header, but {source} is {address.kind.value}",
            expected="CSV or TSV files",
            fix="Leave header out of the schema file.",
        )
    if address.kind is Kind.TABLE:
        if settings is None:
            return Source(address)
        return _of_catalog(address, settings, known, scratch)
    if address.kind is Kind.DELTA:
        files, stated = delta_input(address.place, address.store)
        return _checked(replace(address, files=files), None, known, scratch, stated=stated)
    if address.kind is Kind.ICEBERG:
        plain = tuple(ScratchFolder(scratch, address.store).write(iceberg_rows(address.place, address.store)))
        return _checked(address, plain, known)
    texts = address.kind is not Kind.PARQUET
    found = _from_texts(address, known, scratch) if texts else _checked(address, None, known, scratch)
    if not found.lies:
        # A copy of files that were changed meanwhile may hold some rows of each.
        require_unchanged(address)
    return found


def _of_catalog(address: Address, settings: Settings, known: Wanted, scratch: Parent) -> Source:
    """A table's files as they lie, or its rows made plain where some hold columns under other names."""
    # Catalogs cost a second to load, and files need none.
    from dedup_storage.sources.catalog import catalog_input

    table = catalog_input(address.source, settings)
    # What a table is partitioned by is no path's: its files hold every column, by name or not at all.
    files = tuple(replace(file, partition={}) for file in table.files.files)
    resolve = table.files.resolve
    if not files or all(table.lies_by_name(schema) for _, schema, _ in read_schemas(files, resolve)):
        return _checked(address, files, known, scratch, resolve, stated=table.schema)
    plain = tuple(ScratchFolder(scratch, address.store).write(table.rows()))
    return _checked(address, plain, known, stated=table.schema)


# -- Parquet ------------------------------------------------------------------------------------------------------


def _checked(
    address: Address,
    files: tuple[DataFile, ...] | None,
    known: Wanted,
    scratch: Parent = None,
    resolve: Resolve | None = None,
    stated: pa.Schema | None = None,
    origins: Mapping[str, str] | None = None,
) -> Source:
    """A source of Parquet files, brought to one schema; ``stated`` is that of the table that they belong to."""
    made_of = origins or {}
    files, resolve = address.files if files is None else files, resolve or address.store
    if not files:
        raise InputError(f"{address.source} holds no rows", fix="Check the path.")
    indexed: set[str] = set()
    # Most files of a log have one schema; those that differ are kept, not one of each file.
    different: dict[pa.Schema, None] = {}
    packed: list[DataFile] = []

    def schemas() -> Iterator[tuple[str, pa.Schema]]:
        if stated is not None:
            yield f"the table {address.source}", stated
        for file, schema, kept in read_schemas(files, resolve):
            if kept & _ARROW_ALONE:
                packed.append(file)
            bare = schema.remove_metadata()
            if bare not in different:
                different[bare] = None
                indexed.update(index_columns(schema))
                yield made_of.get(file.path, file.path), bare

    found_types = one_schema(schemas(), _JSON_REMEDY if address.kind is Kind.JSON else None)
    # Fields of structs that differ in case alone are one to Spark.
    refuse_repeated(found_types, f"{address.source}, in two cases")
    wide = [c for c in known.wide if c in found_types.names and found_types.field(c).type == UNSIGNED]
    beyond = {c for c in wide if c not in known.types and not fits_signed(files, c, resolve)}
    one = with_types(found_types, replace(known, whole=tuple(c for c in known.whole if c not in beyond)))
    refuse_reserved(one.names)
    told = {file.path: _told_by(file, address, made_of) for file in files}
    one = with_partitions(files, one, known, resolve, made_of, told)
    refuse_empty_types(one, address.source, address.kind)
    columns = list(dict.fromkeys(key for values in told.values() for key in values))
    above = {_above_columns(file, address.place) for file in files} if columns else {address.place}
    plain = (
        not packed
        and len(above) == 1
        and not any(_is_odd(file, columns, next(iter(above))) for file in files)
        and all(_is_read_alike(one.field(c).type) for c in columns)
        and all(
            f.name not in one.names or is_plain(f.type, one.field(f.name).type) for schema in different for f in schema
        )
    )
    notes = tuple(f"the column {c} is the index of pandas and was left out" for c in sorted(indexed))
    found = Source(address, files, one, notes, resolve, made_of)
    if plain:
        return found
    made = tuple(ScratchFolder(scratch, address.store).write(found.tables()))
    return replace(found, files=made, resolve=address.store)


def _told_by(file: DataFile, address: Address, origins: Mapping[str, str]) -> dict[str, str | None]:
    """What a file's path, or its table's log, tells of its rows: column -> text, or no value."""
    path = origins.get(file.path, file.path)
    told = told_columns(path.removeprefix(address.place)) if path.startswith(address.place) else []
    return {**{key: None for key, _ in told}, **file.partition}


def _is_read_alike(kind: pa.DataType) -> bool:
    """Whether Spark makes of a path's text what Arrow makes of it: times are read in the zone of its session, and
    numbers with a point by other rules."""
    types = pa.types
    return bool(types.is_string(kind) or types.is_integer(kind) or types.is_date(kind) or types.is_boolean(kind))


def _above_columns(file: DataFile, place: str) -> str:
    """The folder above those of a file's path that tell columns."""
    if not file.path.startswith(place):
        return ""
    plain = itertools.takewhile(lambda part: "=" not in part, file.path[len(place) :].split("/")[:-1])
    return place + "/".join(plain)


def _is_odd(file: DataFile, columns: Sequence[str], place: str) -> bool:
    """Whether Spark cannot open a file by its name, or does not find in its path what the columns of paths are.

    Spark leaves a file out whose path lacks a column that other paths tell, and takes each coded byte for a letter. Of
    folders it knows only those that tell the same columns in the same order, all below one and none between them; and
    it takes what they tell for true, whatever a table's log says.

    Args:
        file: The file.
        columns: What the paths of all files tell.
        place: The folder above the first of them.
    """
    folder, _, name = file.path.rpartition("/")
    if ":" in name or is_passed_over(name):
        return True
    if not columns:
        return False
    if _CODED.search(folder) or not folder.startswith(place):
        return True
    below = folder[len(place) :].strip("/")
    told = told_columns(f"{below}/")
    first = below.split("/")[: len(columns)]
    values = [(column, file.partition.get(column)) for column in columns]
    return told != values or any(value == "" for _, value in told) or not all("=" in part for part in first)


def read_schemas(files: Sequence[DataFile], resolve: Resolve) -> Iterator[tuple[DataFile, pa.Schema, frozenset[str]]]:
    """Each file with its schema and the codecs and encodings of its columns, many at a time.

    Raises:
        InputError: a file is no whole Parquet file, or holds dates that Spark reads otherwise than Arrow.
    """

    def read(file: DataFile) -> tuple[pa.Schema, frozenset[str]]:
        filesystem, inner = resolve(file.path)
        try:
            with filesystem.open_input_file(inner) as stream:
                parquet = open_parquet(stream)
                refuse_old_calendar(parquet, file.path)
                return file_schema(parquet), _packing(parquet.metadata)
        except (pa.ArrowException, OSError) as error:
            raise unreadable(file.path, error, resolve) from error

    with ThreadPoolExecutor(min(_THREADS, len(files))) as pool:
        for start in range(0, len(files), 1024):
            part = files[start : start + 1024]
            for file, (schema, kept) in zip(part, pool.map(read, part), strict=True):
                refuse_repeated(schema, f"the file {file.path}")
                yield file, schema, kept


def _packing(footer: pq.FileMetaData) -> frozenset[str]:
    """The codecs and encodings of a file's columns."""
    groups = (footer.row_group(number) for number in range(footer.num_row_groups))
    columns = (group.column(place) for group in groups for place in range(group.num_columns))
    return frozenset(name for column in columns for name in (column.compression, *column.encodings))


# -- texts --------------------------------------------------------------------------------------------------------


def _from_texts(address: Address, known: Wanted, scratch: Parent) -> Source:
    folder = ScratchFolder(scratch, address.store)
    origins: dict[str, str] = {}

    def made(tables: Iterable[pa.Table | pa.RecordBatch], of: DataFile) -> list[DataFile]:
        parts = [replace(part, partition=of.partition) for part in folder.write(tables)]
        origins.update(dict.fromkeys((part.path for part in parts), origins.get(of.path, of.path)))
        return parts

    if address.kind is Kind.JSON:
        parts = [part for file in address.files for part in made(json_tables(file.path, address.store), file)]
        files = tuple(_with_one_number(address, parts, made))
        return _checked(address, files, known, scratch, origins=origins)
    notes: list[str] = []
    seen = TextColumns()
    described = dialects([f.path for f in address.files], address.kind, known.needed, known.header, address.store)
    texts: list[DataFile] = []
    for file, dialect in zip(address.files, described, strict=True):
        if not dialect.header and not known.header:
            notes.append(f"{dialect.path} has no header: its columns are taken in the order of the other files")
        if "" in dialect.names:
            notes.append(f"a column without a name, pandas' index, was left out of {dialect.path}")
        texts += made(_watched(csv_batches(dialect), seen), file)
    kinds = {c: kind if c in known.times else known.types.get(c, kind) for c, kind in seen.kinds(known.texts).items()}
    if not texts:
        raise InputError(f"{address.source} holds no rows", fix="Check the path.")
    if any(kind != pa.string() for kind in kinds.values()):
        texts = [part for file in texts for part in made((typed(t, kinds) for t in _plain(address, file)), file)]
    found = _checked(address, tuple(texts), known, scratch, origins=origins)
    return replace(found, notes=(*notes, *found.notes))


def _plain(address: Address, file: DataFile, schema: pa.Schema | None = None) -> Iterator[pa.Table]:
    """The rows of one scratch file, without what its path tells."""
    types = schema or _schema_of(file, address.store)
    return Source(address, (replace(file, partition={}),), types, resolve=address.store).tables()


def _with_one_number(
    address: Address, parts: list[DataFile], made: Callable[[Iterable[pa.Table], DataFile], list[DataFile]]
) -> list[DataFile]:
    """JSON has one kind of number: a column of 5 in one part and 5.5 in another is one of doubles, where all fit.

    Raises:
        InputError: an integer is no double.
    """
    schemas = [_schema_of(part, address.store) for part in parts]
    kinds: dict[str, pa.DataType] = {}
    for field_ in (f for schema in schemas for f in schema):
        kinds[field_.name] = one_number(kinds.get(field_.name, field_.type), field_.type)
    found: list[DataFile] = []
    for part, schema in zip(parts, schemas, strict=True):
        wanted = pa.schema([(f.name, one_number(f.type, kinds[f.name])) for f in schema])
        found += [part] if wanted == schema else made(_plain(address, part, wanted), part)
    return found


def _schema_of(file: DataFile, store: Store) -> pa.Schema:
    filesystem, inner = store(file.path)
    with filesystem.open_input_file(inner) as stream:
        return pq.read_schema(stream)


def _watched(batches: Iterator[pa.RecordBatch], seen: TextColumns) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        seen.watch(batch)
        yield batch


def _unfit(path: str, error: pa.ArrowInvalid, kind: Kind) -> InputError:
    # Arrow quotes the value, which may be a user's id.
    told = re.sub(r"(?<=data): .*$|(?<=value) \S+", "", str(error).splitlines()[0])
    return InputError(
        f"values in {path} do not fit: {told}",
        expected="values that keep their meaning in the type of the other files or of the dataset",
        fix="Write the numbers of the column as texts in quotes in every line, or all without a point."
        if kind is Kind.JSON
        else "Cast the column in the log, for example times to microseconds, or ids beyond 64 bits to texts.",
    )
