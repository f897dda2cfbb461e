"""spark-submit jobs/join.py …: the same as ``dedup-storage join …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("join")
