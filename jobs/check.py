"""spark-submit jobs/check.py …: the same as ``dedup-storage check …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("check")
