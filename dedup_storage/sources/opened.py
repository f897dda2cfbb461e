"""Bytes of a text file as a stream, unpacked by its name, and what is wrong when they cannot be. Pure."""

from __future__ import annotations

import csv
import io
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from dedup_storage.errors import InputError
from dedup_storage.lake.folders import Store
from dedup_storage.lake.retries import is_refusal

__all__ = ["header_fields", "holds_quotes", "opened", "refuse_loose_quotes"]

_PACKED = {"gz": "gzip", "bz2": "bz2", "zst": "zstd", "lz4": "lz4"}
# A field may be as long as a text may be.
csv.field_size_limit(sys.maxsize)


@contextmanager
def opened(path: str, store: Store) -> Iterator[Any]:
    """A file's bytes, unpacked where the end of its name says so, whatever its case.

    Raises:
        InputError: they are damaged, or packed otherwise.
    """
    packing = _PACKED.get(path.lower().rpartition(".")[2])
    filesystem, inner = store(path)
    try:
        with filesystem.open_input_stream(inner, compression=packing) as stream:
            yield stream
    except OSError as error:
        if packing is None or error.errno is not None or is_refusal(error):
            raise
        raise InputError(
            f"the file {path} cannot be unpacked: {str(error).splitlines()[0]}",
            expected=f"a whole file, packed by {packing} as its name says",
            fix="Replace the damaged file, or name it as it is packed.",
        ) from None


def header_fields(text: str, delimiter: str) -> list[str]:
    """The fields of the first row that is not empty, none where there is no such row."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    return next((row for row in rows if row), [])


def holds_quotes(batch: pa.RecordBatch) -> bool:
    """Whether a text holds a quote or the end of a line, so that its field must have been quoted with care."""
    # All texts of a column lie in one buffer, which is looked at as bytes.
    texts = [column.buffers()[2] for column in batch.columns if pa.types.is_string(column.type)]
    held = (text.to_pybytes() for text in texts if text is not None)
    return any(mark in data for data in held for mark in (b'"', b"\n", b"\r"))


def refuse_loose_quotes(path: str, delimiter: str, store: Store) -> None:
    """Refuse a file in which a quoted text goes on behind its closing quote, or is never closed.

    Arrow takes the rows between one such quote and the next for a part of the text, without a word.

    Raises:
        InputError: names the line.
    """
    with opened(path, store) as stream:
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            # Taken without being looked at: what counts is whether every row can be.
            deque(rows, maxlen=0)
        except csv.Error as error:
            raise InputError(
                f"line {rows.line_num} of {path} ends or breaks off a quoted text: {error}",
                expected="a delimiter or the end of the line behind a closing quote, and every quote closed",
                fix='Put texts that begin with a quote in quotes, each quote inside twice: "He said ""no""".',
            ) from None
