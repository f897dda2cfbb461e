"""A write as one call: options checked, what is asked for written down, the log written."""

from __future__ import annotations

from dedup_storage.choices import choice
from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.write.policies import Mode, OnDuplicates, OnInconstant
from dedup_storage.dataset.write.request import write_request
from dedup_storage.dataset.write.summary import WriteSummary
from dedup_storage.dataset.write.writer import Writer
from dedup_storage.lake.requests import Request
from dedup_storage.lake.runs import named_run
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
    request: Request | None = None,
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
        request: What stands for the log where its rows need not be looked at; found by ``write_request`` when left out.

    Raises:
        UsageError: the run id is that of a run with another log or other options; names what differs.
        InputError: the log cannot be read or breaks its contract; nothing was changed.
        QualityGateError: the gate refused; nothing was published.
        ConflictError: another run changed the same event dates first; run again.
    """
    chosen = choice(Mode, mode, "mode")
    inconstant = choice(OnInconstant, on_inconstant, "policy for inconstant requests")
    duplicates = choice(OnDuplicates, on_duplicates, "policy for duplicates")
    named = named_run(run_id, "write")
    with translated():
        if run_id is not None:
            request = (request or write_request(handle, raw)).with_texts(
                mode=chosen.value, on_inconstant=inconstant.value, on_duplicates=duplicates.value
            )
        writer = Writer(
            handle,
            raw,
            run_id=named,
            mode=chosen,
            on_inconstant=inconstant,
            on_duplicates=duplicates,
            request=request if run_id is not None else None,
            gate=gate,
        )
        return writer.write()
