"""spark-submit jobs/maintain.py …: the same as ``dedup-storage maintain …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("maintain")
