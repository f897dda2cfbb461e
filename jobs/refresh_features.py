"""spark-submit jobs/refresh_features.py …: the same as ``dedup-storage refresh-features …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("refresh-features")
