"""spark-submit jobs/tune.py …: the same as ``dedup-storage tune …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("tune")
