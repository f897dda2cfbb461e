"""spark-submit jobs/estimate.py …: the same as ``dedup-storage estimate …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("estimate")
