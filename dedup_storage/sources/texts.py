"""CSV and TSV as Arrow tables. Pure.

Every field of CSV is read as the text that it is. Afterwards columns that nobody declared and that are no keys become
numbers or truth values where every text is one in its plain form; ``007`` stays a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from dedup_storage.errors import InputError
from dedup_storage.lake.folders import Store
from dedup_storage.sources.address import Kind
from dedup_storage.sources.opened import header_fields, holds_quotes, opened, refuse_loose_quotes

__all__ = ["ZONED", "Dialect", "TextColumns", "csv_batches", "dialects", "typed"]

_BLOCK = 8 * 1024**2
_PROBE = 1024**2
# The end of a time's text that tells its zone.
ZONED = r":[0-9.]*([zZ]|[+-][0-9]{2}(:?[0-9]{2})?)$"
_WHOLE = r"^(0|-?[1-9][0-9]{0,18})$"
_PLAIN_DECIMAL = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?$"
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
# A double holds every integer of fewer digits, whatever stands behind them.
_BEYOND = r"^-?[0-9]{16,}"
_MARKS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


@dataclass(frozen=True)
class Dialect:
    """How one CSV file is written.

    Attributes:
        path: The file.
        delimiter: Between fields.
        names: Its columns, in its order.
        header: Whether its first row names them.
        store: Opens it.
    """

    path: str
    delimiter: str
    names: tuple[str, ...]
    header: bool = True
    store: Store = field(default_factory=Store)


def dialects(
    paths: Sequence[str], kind: Kind, needed: Sequence[str], header: Sequence[str] = (), store: Store | None = None
) -> list[Dialect]:
    """How each of a log's CSV files is written.

    A file whose first row names no column of another file, and has as many fields, is taken for one without a header,
    with the columns of the first file.

    Args:
        paths: The files.
        kind: CSV or TSV.
        needed: Columns that every file must have.
        header: Columns of files that have no header; none of them has one then.
        store: Opens the files; by default as this machine is set up.

    Raises:
        InputError: a file has no header that fits, or is in an encoding that is not read.
    """
    found = [_dialect(path, kind, store or Store()) for path in paths]
    if header:
        return [_without_header(dialect, tuple(header)) for dialect in found]
    named = next((d for d in found if set(needed) <= set(d.names)), None)
    made = []
    for dialect in found:
        lacking = [c for c in needed if c not in dialect.names]
        if not lacking:
            made.append(dialect)
        elif named is not None and len(dialect.names) == len(named.names) and not set(dialect.names) & set(named.names):
            made.append(replace(dialect, names=named.names, header=False))
        else:
            raise InputError(
                f"the first row of {dialect.path} does not name the column {lacking[0]}",
                expected=f"a header with {', '.join(needed)}",
                got=f"{len(dialect.names)} fields",
                fix="Take the blanks around the names out of the header."
                if lacking[0] in (name.strip() for name in dialect.names)
                else "Give the file a header, or correct the names in the schema file.",
            )
    return made


def _without_header(dialect: Dialect, header: tuple[str, ...]) -> Dialect:
    first = dialect.names
    if set(first) & set(header):
        raise InputError(
            f"the first row of {dialect.path} names columns, though the schema says that the log has no header",
            expected="values",
            got=", ".join(c for c in first if c in header),
            fix="Leave header out of the schema file.",
        )
    if len(first) != len(header):
        raise InputError(
            f"the file {dialect.path} has another number of columns than header names",
            expected=f"{len(header)} fields in every row",
            got=f"{len(first)} in the first, between {dialect.delimiter!r}",
            fix="Correct header in the schema file, or give --format tsv or csv.",
        )
    return replace(dialect, names=header, header=False)


def _dialect(path: str, kind: Kind, store: Store) -> Dialect:
    with opened(path, store) as stream:
        head = bytes(stream.read(_PROBE))
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            raise _encoding(path, encoding)
    try:
        text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "strict" if len(head) < _PROBE else "ignore")
    except UnicodeDecodeError:
        raise _encoding(path, "another encoding") from None
    first = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    delimiter = "\t" if kind is Kind.TSV else next((d for d in (",", ";", "\t", "|") if d in first), ",")
    names = header_fields(text, delimiter)
    if not names:
        raise InputError(f"the file {path} is empty", expected="a header and rows", fix="Leave it out.")
    return Dialect(path, delimiter, tuple(names), store=store)


def _encoding(path: str, got: str) -> InputError:
    return InputError(
        f"the file {path} is not written in UTF-8", expected="UTF-8", got=got,
        fix="Convert it, for example with iconv -f ENCODING -t utf-8.",
    )  # fmt: skip


def csv_batches(dialect: Dialect) -> Iterator[pa.RecordBatch]:
    """Rows of a file, every column a text; an empty field without quotes is null.

    Raises:
        InputError: a row has another number of fields, a quote is not closed, or the file is not UTF-8; names the file.
            What is wrong with quotes is known when all rows are read.
    """
    twice = sorted({n for n in dialect.names if dialect.names.count(n) > 1 and n})
    if dialect.header and twice:
        raise InputError(f"the header of {dialect.path} names {twice[0]} twice", fix="Rename one of them.")
    named = [n for n in dialect.names if n]
    try:
        with opened(dialect.path, dialect.store) as stream:
            reader = pacsv.open_csv(
                stream,
                read_options=pacsv.ReadOptions(
                    block_size=_BLOCK, column_names=None if dialect.header else list(dialect.names)
                ),
                parse_options=pacsv.ParseOptions(delimiter=dialect.delimiter, newlines_in_values=True),
                convert_options=pacsv.ConvertOptions(
                    column_types=dict.fromkeys(named, pa.string()),
                    # The column without a name is pandas' index.
                    include_columns=named,
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            quoted = False
            for batch in reader:
                quoted = quoted or holds_quotes(batch)
                yield batch
    except pa.ArrowInvalid as error:
        told = str(error).splitlines()[0]
        if "UTF8" in told or "UTF-8" in told:
            raise _encoding(dialect.path, "another encoding") from None
        if "Empty CSV file" in told:
            return
        # What follows the numbers of fields in Arrow's message is the row itself.
        raise InputError(
            f"the file {dialect.path} cannot be read: {told.partition(': ')[2].partition(', got')[0] or told}",
            expected=f"{len(dialect.names)} fields in every row, quoted where they hold delimiters or line breaks",
            fix="Correct the file.",
        ) from None
    if quoted:
        refuse_loose_quotes(dialect.path, dialect.delimiter, dialect.store)


class TextColumns:
    """What the texts of each column could be, seen batch by batch."""

    def __init__(self) -> None:
        self._whole: dict[str, bool] = {}
        self._number: dict[str, bool] = {}
        self._truth: dict[str, bool] = {}
        self._seen: dict[str, bool] = {}

    def watch(self, batch: pa.RecordBatch) -> None:
        """Look at more rows."""
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if not self._seen.setdefault(name, False):
                self._seen[name] = column.null_count < len(column)
            if self._whole.setdefault(name, True):
                self._whole[name] = _all(pc.match_substring_regex(column, _WHOLE)) and _fits_int64(column)
            if self._number.setdefault(name, True):
                self._number[name] = (
                    _all(pc.match_substring_regex(column, _NUMBER))
                    and not _any(pc.match_substring_regex(column, _BEYOND))
                    and _all(pc.is_finite(column.cast(pa.float64())))
                )
            if self._truth.setdefault(name, True):
                self._truth[name] = _all(pc.is_in(column, pa.array(["true", "false", "True", "False", None])))

    def kinds(self, texts: Sequence[str]) -> dict[str, pa.DataType]:
        """Column -> type; those of ``texts`` stay texts."""
        found = {}
        for name in self._seen:
            kind = pa.string()
            if name not in texts and self._seen[name]:
                choices = (
                    (self._whole[name], pa.int64()), (self._number[name], pa.float64()), (self._truth[name], pa.bool_())
                )  # fmt: skip
                kind = next((k for fits, k in choices if fits), kind)
            found[name] = kind
        return found


def _all(flags: pa.Array) -> bool:
    return bool(pc.all(flags, min_count=0).as_py())


def _any(flags: pa.Array) -> bool:
    return bool(pc.any(flags, min_count=0).as_py())


def _fits_int64(column: pa.Array) -> bool:
    try:
        column.cast(pa.int64())
    except pa.ArrowInvalid:
        return False
    return True


def typed(table: pa.Table, kinds: Mapping[str, pa.DataType]) -> pa.Table:
    """The texts of a table as values of the types given.

    Raises:
        InputError: texts are no values of their type in its plain form; names the column and how many.
    """
    columns = []
    for name in table.column_names:
        column, kind = table[name], kinds[name]
        if kind == pa.string() or column.type != pa.string():
            columns.append(column)
            continue
        if pa.types.is_nested(kind):
            raise InputError(
                f"types says {kind} of the column {name}, whose texts tell no such values by themselves",
                expected="a type of single values",
                fix=f"Say under forms how the texts of {name} are read (split, json), and leave it out of types.",
            )
        if pa.types.is_integer(kind) or pa.types.is_decimal(kind):
            plain = _WHOLE if pa.types.is_integer(kind) else _PLAIN_DECIMAL
            wrong = pc.invert(pc.match_substring_regex(column, plain))
            count = pc.sum(wrong).as_py() or 0
            if count:
                raise _no_values(name, count, kind)
        try:
            made = (
                _zoned(column).cast(kind) if pa.types.is_timestamp(kind) and kind.tz is not None else column.cast(kind)
            )
        except pa.ArrowInvalid:
            raise _no_values(name, None, kind) from None
        if pa.types.is_floating(kind):
            # A number that the type takes for infinite is another one.
            beyond = pc.and_(pc.is_inf(made), pc.invert(pc.match_substring(column, "inf", ignore_case=True)))
            count = pc.sum(beyond).as_py() or 0
            if count:
                raise _no_values(name, count, kind)
        columns.append(made)
    return pa.Table.from_arrays(columns, names=table.column_names)


def _zoned(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times as texts with their zone: without one they are UTC."""
    days = pc.match_substring_regex(texts, "^[0-9-]+$")
    bare = pc.if_else(days, pc.binary_join_element_wise(texts, " 00:00:00", ""), texts)
    zoned = pc.match_substring_regex(bare, ZONED)
    return pc.if_else(zoned, bare, pc.binary_join_element_wise(bare, "Z", ""))


def _no_values(name: str, count: int | None, kind: pa.DataType) -> InputError:
    return InputError(
        f"{count or 'some'} texts of the column {name} are no values of its type",
        expected=f"{kind} in its plain form, without leading zeros or blanks",
        fix=f"Correct the log, or keep {name} a text.",
    )
