"""The console command ``dedup-storage JOB …`` and the jobs behind ``spark-submit jobs/JOB.py``."""

from __future__ import annotations

from dedup_storage.cli.app import app, main, run_job

__all__ = ["app", "main", "run_job"]
