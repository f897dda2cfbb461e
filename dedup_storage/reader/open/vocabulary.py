"""Vocabularies of a dataset: counted once from what the reader delivers, and stored beside the tables.

A vocabulary lies in the folder ``_vocabularies`` of the anchor table, which Spark, orphan removal and vacuum pass over:
it moves with a renamed dataset, and goes with a dropped one.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.config import Settings, load_settings
from dedup_storage.errors import ConfigError, SchemaError, StorageError
from dedup_storage.lake.credentials import Client
from dedup_storage.lake.folders import VOCABULARIES, resolve_uri
from dedup_storage.reader.open.plan import ReadPlan, make_plan
from dedup_storage.reader.options import Filters, ReadOptions
from dedup_storage.reader.state import fingerprint
from dedup_storage.reader.vocabulary import IdVocabulary, merge_counts, plain_values
from dedup_storage.schema import Grain

__all__ = ["open_vocabulary"]

_BLOCK_BYTES = 64 << 20
# Distinct values, with repetitions, that are held before their counts are summed.
_MOST_WAITING = 1 << 22


def open_vocabulary(
    name: str,
    columns: str | Sequence[str],
    settings: Settings | None = None,
    *,
    version: int | None = None,
    min_count: int = 1,
    filters: Filters | Mapping[str, Any] | None = None,
    sample: str | None = None,
    store: bool = True,
) -> IdVocabulary:
    """Ids for the values of columns of one version of a dataset: built once, stored beside it, and read from then on.

    Several columns, such as the candidate and a history of items, get one set of ids. A value counts once for each row
    of its grain (a request's value once per request), and once for each place in a list. An erasure of users deletes
    the stored vocabularies of its dataset; one that a model keeps holds their values, so keep columns that identify
    people out of it.

    Args:
        name: The dataset.
        columns: Columns of whole numbers or text, or of lists of these.
        settings: Where its catalog is; ``None`` reads the environment.
        version: Version number; ``None`` takes the newest.
        min_count: Values that were seen less often have id 0, as those have that were not seen at all.
        filters: Which requests count, as for ``DedupDataset``; training days alone, for example.
        sample: Name of a stored sample whose requests count.
        store: Whether to write it beside the dataset where it is not there yet.

    Raises:
        DatasetNotFoundError, VersionNotFoundError: there is none of that name or number.
        UnknownColumnError: a column that the dataset does not have.
        ConfigError: ``min_count`` is below 1, or a column is a key of users or requests.
        SchemaError: columns hold neither whole numbers nor text, or some the one and some the other.
        StorageError: it cannot be read or written.

    Example:
        >>> items = open_vocabulary("clicks", ["item_id", "hist_item_ids"], min_count=2)  # doctest: +SKIP
        >>> batches = DedupDataset("clicks", vocabularies={"item_id": items})  # doctest: +SKIP
        >>> table = nn.Embedding(len(items), 64, padding_idx=0)  # doctest: +SKIP
    """
    chosen = tuple(dict.fromkeys([columns] if isinstance(columns, str) else columns))
    if min_count < 1 or not chosen:
        raise ConfigError("a vocabulary needs a column and a count", expected="min_count of 1 or more and a column")
    settings = settings if settings is not None else load_settings()
    options = ReadOptions.build(
        {"columns": chosen, "filters": filters if filters is not None else {}, "sample": sample, "shuffle": False}
    )
    plan = make_plan(name, settings, version, options)
    refuse_keys(plan, chosen)
    file = _VocabularyFile(plan, chosen, min_count)
    found = file.read()
    if found is None:
        found = _build(plan, chosen, min_count)
        if store:
            file.write(found)
    return found


def refuse_keys(plan: ReadPlan, columns: Sequence[str]) -> None:
    """Users and requests have no vocabulary: erased users would stay in it.

    Raises:
        ConfigError: names the column.
    """
    for column in columns:
        if column in plan.spec.request_key:
            raise ConfigError(
                f"the column {column} is a key of users or requests, which no vocabulary may keep",
                fix="Hash it: batch.user_ids(), or batch[column].buckets(rows).",
            )


def _build(plan: ReadPlan, columns: Sequence[str], min_count: int) -> IdVocabulary:
    parts: list[pa.Table] = []
    waiting = 0
    for values in _values(plan, columns):
        if parts and parts[0]["value"].type != values.type:
            raise SchemaError(
                f"the columns {' and '.join(columns)} cannot share a vocabulary",
                expected=str(parts[0]["value"].type),
                got=str(values.type),
                fix="Build one for each.",
            )
        counted = pc.value_counts(values)
        parts.append(pa.table({"value": counted.field("values"), "count": counted.field("counts")}))
        waiting += len(counted)
        if waiting > _MOST_WAITING and len(parts) > 1:
            parts = [merge_counts(parts)]
            # Summing again is worth it only once as much has come as is there.
            waiting = min(0, _MOST_WAITING - parts[0].num_rows)
    table = merge_counts(parts)
    facts: dict[str, Any] = {"dataset": plan.spec.name, "version": plan.version, "columns": list(columns)}
    options = plan.options
    if not options.filters.is_empty or options.sample is not None:
        facts["filters"] = {"sample": options.sample, **options.described()["filters"]}
    return IdVocabulary.of_counts(table["value"].combine_chunks(), table["count"].combine_chunks(), min_count, facts)


def _values(plan: ReadPlan, columns: Sequence[str]) -> Iterator[pa.Array]:
    grains = plan.grains
    for column in columns:
        # One that no row has still says of which type the values are.
        yield plain_values(pa.array([], plan.types[column]))
    for decoded in plan.decoded(_BLOCK_BYTES):
        for column in columns:
            table = decoded.requests if grains[column] is Grain.REQUEST else decoded.impressions
            yield plain_values(table[column])


class _VocabularyFile:
    """Where a vocabulary is kept: one Arrow file for each version, columns, count and choice of requests."""

    def __init__(self, plan: ReadPlan, columns: Sequence[str], min_count: int) -> None:
        chosen = ""
        if not plan.options.filters.is_empty or plan.options.sample is not None:
            chosen = f"-{plan.pins['filters']}"
        # The snapshots, too: an erased user's rows leave a version without changing its number.
        content = fingerprint(plan.pins["snapshots"])
        file = f"{'+'.join(columns)}/v{plan.version}-{content}-seen{min_count}{chosen}.arrow"
        self.uri = f"{plan.source.requests.location.rstrip('/')}/{VOCABULARIES}/{file}"
        # Where a catalog vends keys, those of the table open what lies in its folder.
        self._files = plan.source.requests.file_io()

    def read(self) -> IdVocabulary | None:
        """The stored vocabulary; ``None`` when it is not there.

        Raises:
            StorageError: it is damaged, or storage failed each time or refuses.
        """
        try:
            return self._files.read(f"the vocabulary {self.uri} was read", self._read)
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(f"the vocabulary {self.uri} cannot be read: {error}") from error

    def _read(self, client: Client) -> IdVocabulary:
        with client.new_input(self.uri).open() as stream, pa.ipc.open_file(stream) as reader:
            return IdVocabulary.from_table(reader.read_all(), self.uri)

    def write(self, vocabulary: IdVocabulary) -> None:
        """Store it so that nobody reads half of it; several processes may, for all write the same."""
        table = vocabulary.to_table()
        try:
            if "://" in self.uri and not self.uri.startswith("file:"):
                self._files.read(f"the vocabulary {self.uri} was stored", partial(self._write, table=table))
            else:
                self._write_local(table)
        except OSError as error:
            raise StorageError(
                f"the vocabulary cannot be stored as {self.uri}: {error}",
                fix="Build it where the warehouse can be written, or pass store=False.",
            ) from error

    def _write(self, client: Client, table: pa.Table) -> None:
        # An object store shows a file when it is whole.
        with client.new_output(self.uri).create(overwrite=True) as stream, pa.ipc.new_file(stream, table.schema) as out:
            out.write_table(table)

    def _write_local(self, table: pa.Table) -> None:
        filesystem, path = resolve_uri(self.uri)
        place = f"{path}.{uuid.uuid4().hex}"
        filesystem.create_dir(place.rsplit("/", 1)[0])
        with filesystem.open_output_stream(place) as stream, pa.ipc.new_file(stream, table.schema) as out:
            out.write_table(table)
        filesystem.move(place, path)
