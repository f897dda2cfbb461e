"""spark-submit jobs/write.py …: the same as ``dedup-storage write …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("write")
