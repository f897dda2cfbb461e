"""spark-submit jobs/drop_features.py …: the same as ``dedup-storage drop-features …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("drop-features")
