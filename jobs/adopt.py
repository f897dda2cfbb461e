"""spark-submit jobs/adopt.py …: the same as ``dedup-storage adopt …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("adopt")
