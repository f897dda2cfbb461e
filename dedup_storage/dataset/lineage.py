"""What users ask a dataset for, told as OpenLineage events: the rooms' summaries, and what there is to tell of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

from dedup_storage.dataset.handle import Handle
from dedup_storage.lake.bundles import bundle_run
from dedup_storage.lake.engine.plans import read_columns
from dedup_storage.lake.runs import anew_run
from dedup_storage.lineage.accounts import Tables
from dedup_storage.lineage.model import Account, Source, Verb
from dedup_storage.lineage.telling import told
from dedup_storage.spark.errors import translated
from dedup_storage.spark.types import struct_of

__all__ = ["Accounts", "run_told"]

Result = TypeVar("Result")


class Accounts:
    """What there is to tell of a run of each kind, by its summary.

    Args:
        handle: The dataset as it is when the run is done.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    @cached_property
    def _tables(self) -> Tables:
        # The run may have changed the description that the handle was opened with.
        return Tables(self._handle.settings, self._handle.tables.metadata(self._handle.name))

    def write(self, summary: Any, sources: tuple[Source, ...] = ()) -> Account:
        """Rows came from outside."""
        done = self._tables.of_run(summary.run_id, rewrites=False)
        return replace(done, sources=sources, already=summary.already_published)

    def rewrite(self, summary: Any) -> Account:
        """Rows were made of those of the version before."""
        done = self._tables.of_run(summary.run_id, rewrites=True)
        return replace(done, already=getattr(summary, "already_published", False))

    def features(self, summary: Any) -> Account:
        """A feature group was added or refreshed."""
        done = self._tables.of_group(summary.run_id, summary.group, self._references)
        return replace(done, already=summary.already_published)

    def move(self, summary: Any) -> Account:
        """Feature groups went into another table: one of the log, or one that they share."""
        done = self._tables.of_move(summary.run_id, summary.groups or (summary.group,))
        return replace(done, already=summary.already_published)

    def maintenance(self, summary: Any) -> Account:
        """Segments were sorted again, lists laid anew, and feature groups brought together, each as a version of its
        own."""
        runs = [self._tables.of_move(bundle_run(summary.run_id, b.bundle), b.groups) for b in summary.bundles]
        if summary.runs:
            runs.append(self._tables.of_run(anew_run(summary.run_id), rewrites=True))
        done = [account for account in (*runs, self.rewrite(summary)) if account.version is not None]
        if not done:
            return Account(summary.run_id)
        return replace(
            done[-1],
            run_id=summary.run_id,
            read=done[0].read,
            sources=tuple(dict.fromkeys(source for account in done for source in account.sources)),
            products=tuple({p.source.place: p for account in done for p in account.products}.values()),
        )

    def drop(self, summary: Any) -> Account:
        """A feature group is left out."""
        return replace(self._tables.of_drop(summary.run_id), already=summary.already_published)

    def rollback(self, info: Any) -> Account:
        """An older version is there again."""
        return self._tables.restored(info.version)

    def erasure(self, summary: Any) -> Account:
        """Users are gone from tables; which users is told to nobody."""
        names = [table.table for table in summary.tables if table.rows or table.files]
        products = self._tables.products(summary.version, names)
        return Account(summary.run_id, summary.version, products=products, already=summary.already_done)

    def conversion(self, target: Handle, summary: Any) -> Account:
        """A version was written into another dataset."""
        already = bool(summary.parts) and summary.already_done == len(summary.parts)
        sources = self._tables.sources(summary.source_version)
        return replace(Accounts(target).made(summary.version, summary.run_id, sources), already=already)

    def made(self, version: int, run_id: str, sources: Iterable[Source] = ()) -> Account:
        """A dataset that holds what the run brought, and nothing else."""
        return replace(self._tables.whole(version), run_id=run_id, sources=tuple(sources))

    def sources(self, version: int, names: Iterable[str] | None = None) -> tuple[Source, ...]:
        """Tables of a version, as they were read."""
        return self._tables.sources(version, names)

    def sample(self, summary: Any, run_id: str | None) -> Account:
        """Users were sampled: what is kept of that is no table that anybody reads by itself."""
        table = self._handle.spec.anchor.name
        return Account(
            run_id=run_id,
            read=summary.version,
            sources=self._tables.sources(summary.version, [table]),
            already=summary.unchanged,
        )

    def _references(self, types: Mapping[str, str], text: str) -> frozenset[str]:
        return read_columns(self._handle.spark.createDataFrame([], struct_of(types)), text)


def run_told(
    handle: Handle,
    job: str,
    run_id: str | None,
    work: Callable[[], Result],
    account: Callable[[Accounts, Result], Account],
    *,
    subject: str | None = None,
    sources: tuple[Source, ...] = (),
    dry_run: bool = False,
) -> Result:
    """Do what a user asked a dataset for, and tell of it where lineage is on; a dry run is not told.

    Args:
        handle: The dataset.
        job: The job's name.
        run_id: As the user gave it, or as it was named for this run.
        work: Does it.
        account: What there is to tell of its result.
        subject: The feature group or sample that it is about.
        sources: What is going to be read, as far as that is known.
        dry_run: Nothing is going to be changed.
    """
    if dry_run:
        return work()
    verb = Verb(handle.name, job, run_id, subject, sources)

    def in_our_words() -> Result:
        # A run fails by the toolkit's errors, whatever raised them.
        with translated():
            return work()

    return told(handle.settings, verb, in_our_words, lambda result: account(Accounts(handle), result))
