"""spark-submit jobs/refresh_features.py …: the same as ``dedup-storage features refresh …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("features", "refresh")
