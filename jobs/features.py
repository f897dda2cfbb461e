"""spark-submit jobs/features.py …: the same as ``dedup-storage features …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("features")
