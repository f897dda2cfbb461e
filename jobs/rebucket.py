"""spark-submit jobs/rebucket.py …: the same as ``dedup-storage rebucket …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("rebucket")
