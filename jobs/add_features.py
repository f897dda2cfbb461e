"""spark-submit jobs/add_features.py …: the same as ``dedup-storage add-features …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("add-features")
