"""The one place in which a run that a user starts begins and ends: its events, and nothing else, happen here.

A run of events is one attempt that came to an end: killed, it is gone on with by whoever runs the same run id again,
and ends once. How that is known stands in ``journal``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from dedup_storage.config import Settings
from dedup_storage.errors import DedupStorageError
from dedup_storage.faults import reached
from dedup_storage.lineage.journal import Journal, Record
from dedup_storage.lineage.model import Account, State, Verb
from dedup_storage.lineage.receiver import Receiver

__all__ = ["told"]

Result = TypeVar("Result")
# A run that began before this is not at work any more.
_LOST = timedelta(days=7)


def told(settings: Settings, verb: Verb, work: Callable[[], Result], account: Callable[[Result], Account]) -> Result:
    """Do a run's work; where lineage is on, send its START before it and its COMPLETE or FAIL behind it.

    Args:
        settings: Settings of the lake.
        verb: What is asked for.
        work: Does it.
        account: What it read and made, found out when it is done; not called where lineage is off.

    Raises:
        MissingDependencyError, ConfigError: lineage is on and cannot be as it is set up; nothing was done.
    """
    if not settings.lineage.on:
        return work()
    telling = _Telling(settings, verb)
    telling.begin()
    try:
        result = work()
    except Exception as error:
        telling.fail(error)
        raise
    except BaseException:
        # Interrupted, not failed.
        telling.abort()
        raise
    telling.complete(lambda: account(result))
    return result


class _Telling:
    """The events of one attempt."""

    def __init__(self, settings: Settings, verb: Verb) -> None:
        self._receiver = Receiver(settings)
        self._journal, self._namespace, self._verb = Journal(settings, verb.dataset), settings.lineage.namespace, verb
        self._account = Account(run_id=verb.run_id, sources=verb.sources)
        self._record, self._key = Record("", verb.name, ""), ""
        self._resumed = self._noted = False

    def begin(self) -> None:
        """Take over the run that a killed attempt left, or begin one."""
        from dedup_storage.lineage.events import new_run

        run, now = new_run(), datetime.now(UTC).isoformat()
        self._key = Journal.key(self._verb, run)
        self._record = Record(run, self._verb.name, now, self._verb.run_id)
        found = self._try(lambda: self._journal.find(self._key)) if self._verb.run_id is not None else None
        if found is not None:
            self._record, self._resumed = replace(found, ended=None), True
        self._noted = self._note()
        if self._record.started:
            self._send(State.RUNNING)
        else:
            self._start()

    def complete(self, account: Callable[[], Account]) -> None:
        """Tell that it is done, and what it read and made."""
        found = self._try(account) or self._account
        if found.already and not self._resumed:
            # Another run of events told what was done then.
            found = replace(found, sources=(), products=())
        self._account = replace(found, run_id=found.run_id or self._verb.run_id)
        reached("lineage:done")
        self._end(State.COMPLETE)
        if self._verb.job == "maintain":
            self._try(self._end_lost)
        self._receiver.close()

    def fail(self, error: Exception) -> None:
        """Tell that it failed, by the error's class: its words may name rows, users, addresses."""
        kind = type(error).__name__
        self._end(State.FAIL, kind if isinstance(error, DedupStorageError) else f"unexpected {kind}")
        self._receiver.close()

    def abort(self) -> None:
        """Tell that somebody stopped it."""
        self._end(State.ABORT)
        self._receiver.close()

    def _end(self, state: State, error: str | None = None) -> None:
        from dedup_storage.lineage.events import new_run

        if self._noted and self._gone():
            # The same run id at work in another process told the end.
            if state is not State.COMPLETE or self._account.already:
                return
            # It failed there, for here it was done: a run of its own.
            self._record = replace(self._record, run=new_run(), started=False)
        if not (self._record.started or self._start()):
            # Whoever did not take the START would be asked twice as long for an end that says nothing without it.
            self._record = replace(self._record, ended=state.value)
        elif self._send(state, error):
            self._try(lambda: self._journal.remove(self._key))
            return
        else:
            self._record = replace(self._record, ended=state.value)
        self._note()

    def _gone(self) -> bool:
        """Whether the note of this run is gone, or is another run's; not where the journal cannot be read."""
        looked = self._try(lambda: (self._journal.find(self._key),))
        return looked is not None and (looked[0] is None or looked[0].run != self._record.run)

    def _start(self) -> bool:
        if not self._send(State.START, when=self._record.begun):
            return False
        reached("lineage:started")
        self._record = replace(self._record, started=True)
        self._note()
        return True

    def _note(self) -> bool:
        def written() -> bool:
            self._journal.write(self._key, self._record)
            return True

        return self._try(written) is not None

    def _send(self, state: State, error: str | None = None, when: str | None = None) -> bool:
        from dedup_storage.lineage.events import run_event

        record, account = self._record, self._account
        made = self._try(
            lambda: run_event(state, record.run, record.job, self._namespace, account, error=error, when=when)
        )
        return made is not None and self._receiver.send(made)

    def _end_lost(self) -> None:
        """End runs that nobody goes on with: killed long ago, or ended while the receiver was away."""
        from dedup_storage.lineage.events import run_event

        for key, record in self._journal.left(_LOST).items():
            state = State(record.ended or State.ABORT.value)
            account = Account(run_id=record.run_id)
            event = run_event(state, record.run, record.job, self._namespace, account)
            if not record.started or self._receiver.send(event):
                self._journal.remove(key)

    def _try(self, step: Callable[[], Result]) -> Result | None:
        """Do something for the tale; where it fails that is told, and the run goes on."""
        try:
            return step()
        except Exception as error:  # noqa: BLE001 - told; no tale is worth a run
            self._receiver.warn("a step of it failed", error)
            return None
