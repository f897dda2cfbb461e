"""A write as one call: options checked, what is asked for written down, the log written."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from dedup_storage.choices import choice
from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.write.asked import with_options
from dedup_storage.dataset.write.columns import Fitted, fitted
from dedup_storage.dataset.write.plan import PlannedWrite
from dedup_storage.dataset.write.policies import Mode, OnDuplicates, OnInconstant
from dedup_storage.dataset.write.request import write_request
from dedup_storage.dataset.write.summary import WriteSummary
from dedup_storage.dataset.write.writer import Writer
from dedup_storage.errors import DedupStorageError
from dedup_storage.lake.requests import Request
from dedup_storage.lake.runs import named_run
from dedup_storage.sources.absent import ColumnChoice
from dedup_storage.sources.raw import RawLog
from dedup_storage.spark.errors import translated

__all__ = ["write_log"]


def write_log(
    handle: Handle,
    raw: RawLog,
    *,
    run_id: str | None = None,
    mode: Mode | str = Mode.APPEND,
    on_inconstant: OnInconstant | str = OnInconstant.REFUSE,
    on_duplicates: OnDuplicates | str = OnDuplicates.REFUSE,
    gate: bool = True,
    add_columns: ColumnChoice = None,
    fill_columns: ColumnChoice = None,
    request: Request | None = None,
    dry_run: bool = False,
) -> WriteSummary:
    """Write a log: collapse, stage, audit, publish as one version.

    Args:
        handle: The dataset.
        raw: The log.
        run_id: Name of the run; a run that is published already changes nothing. Random when not given.
        mode: ``append``, or ``replace`` the log's event dates as a whole.
        on_inconstant: Requests whose request-grain columns differ: ``refuse``, keep the ``first`` row's values, or
            ``quarantine`` them.
        on_duplicates: Keys that occur twice or are in the dataset already: ``refuse`` or ``keep-one``.
        gate: Audit the staged rows before publication.
        add_columns: Columns of the log that the dataset gets, by name, or ``all``; null in the rows that are there.
        fill_columns: Columns of the dataset that the log may lack, by name, or ``all``; null in the log's rows.
        dry_run: Look at columns, keys and dates, say what would be written, and change nothing.
        request: What stands for the log where its rows need not be looked at; found by ``write_request`` when left out.

    Raises:
        UsageError: the run id is that of a run with another log or other options; names what differs.
        SchemaError: the log has other columns, and it was not said what becomes of them.
        InputError: the log cannot be read or breaks its contract; nothing was changed.
        QualityGateError: the gate refused; nothing was published.
        ConflictError: another run changed the same event dates first; run again.
    """
    chosen = choice(Mode, mode, "mode")
    inconstant = choice(OnInconstant, on_inconstant, "policy for inconstant requests")
    duplicates = choice(OnDuplicates, on_duplicates, "policy for duplicates")
    named = named_run(run_id, "write")
    writer: Writer | None = None
    try:
        with translated():
            # Columns may have come since the dataset was opened.
            meta = handle.tables.find(handle.name) if dry_run else handle.tables.settle(handle.spec)
            handle = handle if meta is None else replace(handle, spec=meta.spec)
            log = Fitted(raw, handle.spec) if meta is None else fitted(raw, handle, meta, add_columns, fill_columns)
            if run_id is not None:
                request = request or write_request(handle, raw, log)
                request = with_options(request, chosen, inconstant, duplicates, add_columns, fill_columns)
            writer = (PlannedWrite if dry_run else Writer)(
                handle,
                meta,
                log,
                run_id=named,
                mode=chosen,
                on_inconstant=inconstant,
                on_duplicates=duplicates,
                request=request if run_id is not None else None,
                gate=gate,
            )
            return writer.plan() if isinstance(writer, PlannedWrite) else writer.write()
    except DedupStorageError:
        if writer is None or not writer.has_read:
            # Where a file was exchanged meanwhile, that is what went wrong, whatever was seen of it. Storage that does
            # not answer tells nothing of the files.
            with suppress(OSError):
                raw.require_unchanged()
        raise
