"""spark-submit jobs/datasets.py …: the same as ``dedup-storage datasets …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("datasets")
