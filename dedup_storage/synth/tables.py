"""A synthetic log as Arrow record batches: each file is a pure function of (parameters, table, number)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa

from dedup_storage.errors import UnknownColumnError, known_names
from dedup_storage.synth.columns import LISTS, TIMESTAMP, context, impressions, keys, late_labels, offsets, take
from dedup_storage.synth.items import candidates
from dedup_storage.synth.params import SynthLayout, SynthParams
from dedup_storage.synth.philox import Stream, words
from dedup_storage.synth.population import Ints, Requests, ragged_arange, requests_between

__all__ = ["arrow_schema", "batches"]

# List elements of one record batch: 32 MiB of ids, the working set of a writer, whatever the log's size.
_BATCH_ELEMENTS = 4 * 1024**2
_MOST_BATCH_ROWS = 64 * 1024


def arrow_schema(params: SynthParams, table: str) -> pa.Schema:
    """Columns of one table of the log.

    Raises:
        UnknownColumnError: the log has no such table.
    """
    key = pa.string() if params.string_ids else pa.int64()
    ids = [pa.field("user_id", key, False), pa.field("request_id", key, False)]
    request = [
        pa.field("request_time", TIMESTAMP, False),
        pa.field("country", pa.string()),
        pa.field("device", pa.string()),
        *(pa.field(h.value, pa.list_(LISTS[h])) for h in params.history),
    ]
    item = pa.field("item_id", pa.int64(), False)
    candidate = [item, pa.field("price", pa.float64()), pa.field("label", pa.int32())]
    nested = pa.field("candidates", pa.list_(pa.struct(candidate)))
    tables = {
        "log": [*ids, *request, nested] if params.layout is SynthLayout.NESTED else [*ids, *request, *candidate],
        "requests": [*ids, *request],
        "impressions": [*ids, *candidate],
        "labels": [*ids, item, pa.field("label", pa.int32(), False), pa.field("label_time", TIMESTAMP, False)],
    }
    if table not in params.tables:
        raise UnknownColumnError(f"the synthetic log has no table {table}", expected=known_names(table, params.tables))
    return pa.schema(tables[table])


def batches(params: SynthParams, table: str, file: int) -> Iterator[pa.RecordBatch]:
    """The rows of one file.

    Args:
        params: The log.
        table: One of ``params.tables``.
        file: Number of the file in [0, params.files).

    Yields:
        Batches of bounded size; a table without rows in this file yields none.

    Raises:
        UnknownColumnError: the log has no such table.
    """
    schema = arrow_schema(params, table)
    if table == "labels":
        parts = _late_labels(params, file)
    elif table == "log" and params.layout is SynthLayout.SHUFFLED:
        parts = _shuffled(params, file)
    else:
        parts = _in_order(params, table, file)
    for columns in parts:
        yield pa.record_batch([columns[name] for name in schema.names], schema=schema)


def _requests_of(params: SynthParams, file: int) -> Requests:
    begin, end = (params.duration_us * f // params.files for f in (file, file + 1))
    return requests_between(params, begin, end)


def _late_labels(params: SynthParams, file: int) -> Iterator[dict[str, pa.Array]]:
    """Late labels of the file's requests, in the order they land."""
    requests = _requests_of(params, file)
    made = candidates(params, requests)
    late = np.flatnonzero(made.late)
    order = late[np.argsort((requests.time_us[made.request] + made.delay_us)[late], kind="stable")]
    for start in range(0, len(order), _MOST_BATCH_ROWS):
        yield late_labels(params, requests, made, order[start : start + _MOST_BATCH_ROWS])


def _in_order(params: SynthParams, table: str, file: int) -> Iterator[dict[str, pa.Array]]:
    requests = _requests_of(params, file)
    per_impression = table == "impressions" or (table == "log" and params.layout is SynthLayout.FLAT)
    rows = requests.candidates if per_impression else np.ones_like(requests.candidates)
    fat = table != "impressions"
    for part in _slices(rows, params.sequence_length * len(params.history) if fat else 0):
        some = requests.take(part)
        if table == "requests":
            yield {**keys(params, some), **context(params, some)}
            continue
        made = candidates(params, some)
        if table == "impressions":
            yield {**take(keys(params, some), made.request), **impressions(params, made)}
        elif params.layout is SynthLayout.NESTED:
            struct = pa.StructArray.from_arrays(
                list(impressions(params, made).values()),
                fields=list(arrow_schema(params, table).field("candidates").type.value_type),
            )
            lists = pa.ListArray.from_arrays(offsets(some.candidates), struct)
            yield {**keys(params, some), **context(params, some), "candidates": lists}
        else:
            columns = {**keys(params, some), **context(params, some)}
            yield {**take(columns, made.request), **impressions(params, made)}


def _shuffled(params: SynthParams, file: int) -> Iterator[dict[str, pa.Array]]:
    """Every impression draws its file and its place there; the file's rows are then made in that order."""
    requests = requests_between(params, 0, params.duration_us)
    request, position = _drawn(params, requests, file)
    step = _rows_per_batch(params.sequence_length * len(params.history))
    for start in range(0, len(request), step):
        rows = slice(start, start + step)
        used, row_request = np.unique(request[rows], return_inverse=True)
        some = requests.take(used)
        made = candidates(params, some)
        before = np.cumsum(some.candidates) - some.candidates
        columns = {**keys(params, some), **context(params, some)}
        yield {
            **take(columns, row_request),
            **take(impressions(params, made), before[row_request] + position[rows]),
        }


def _drawn(params: SynthParams, requests: Requests, file: int) -> tuple[Ints, Ints]:
    """Request row and position of the impressions that drew a file, in the order they drew."""
    found = []
    for part in _slices(requests.candidates, 0):
        some = requests.take(part)
        request = np.repeat(np.arange(len(some)), some.candidates)
        position = ragged_arange(np.zeros_like(some.candidates), some.candidates)
        chosen, high, low, _ = words(params.seed, Stream.SHUFFLE, some.user[request], some.ordinal[request], position)
        here = np.flatnonzero(chosen % np.uint64(params.files) == file)
        place = (high[here] << np.uint64(32)) | low[here]
        found.append((request[here] + part.start, position[here], place))
    request, position, place = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(place, kind="stable")
    return request[order], position[order]


def _rows_per_batch(elements_per_row: int) -> int:
    return int(min(_MOST_BATCH_ROWS, max(1, _BATCH_ELEMENTS // max(elements_per_row, 1))))


def _slices(rows: Ints, elements_per_row: int) -> Iterator[slice]:
    """Cut consecutive requests so that a cut makes about one batch of rows."""
    batch = np.cumsum(rows) // _rows_per_batch(elements_per_row)
    cuts = [0, *(np.flatnonzero(np.diff(batch)) + 1), len(rows)]
    return (slice(a, b) for a, b in pairwise(cuts) if b > a)
