"""``dedup-storage doctor``: what works with these settings, what will not, and what to do."""

from __future__ import annotations

from typing import Annotated

import typer

from dedup_storage.cli.output import show_table
from dedup_storage.cli.runtime import Job, job, local_spark
from dedup_storage.errors import DedupStorageError
from dedup_storage.words import counted

__all__ = ["doctor"]


@job
def doctor(
    job: Job,
    no_spark: Annotated[bool, typer.Option("--no-spark", help="Probe only what needs no JVM.")] = False,
) -> None:
    """Try what these settings need (packages, catalog, store, Spark, joins) and say what to do; no dataset is touched.

    What is made lies in a namespace or folder of its own, and is removed. Exit status 1 when something needed is
    missing.
    """
    from dedup_storage.doctor.examine import examine

    start = None if no_spark else lambda settings: local_spark(settings, debug=job.debug)
    found = examine(job.settings, start, job.step)
    if str(job.json) != "-":
        rows = [(probe.name, probe.state.value, probe.found, f"{probe.seconds:.1f} s") for probe in found.probes]
        show_table(f"{found.format} in {found.warehouse} (settings: {found.settings})",
                   ("probe", "state", "found", "took"), rows)  # fmt: skip
        show_table("What to do", ("probe", "remedy"), [(p.name, p.remedy) for p in found.probes if p.remedy])
    job.write_json(found)
    if found.missing:
        tried = [probe.name for probe in found.missing if probe.tried]
        others = len(found.missing) - len(tried)
        rest = f"; {counted(others, 'probe', 'was')} not tried for lack of it" if others else ""
        raise DedupStorageError(
            f"something needed is missing ({', '.join(tried)}){rest}", fix="What to do stands beside each probe."
        )
