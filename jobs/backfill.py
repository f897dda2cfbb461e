"""spark-submit jobs/backfill.py …: the same as ``dedup-storage backfill …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("backfill")
