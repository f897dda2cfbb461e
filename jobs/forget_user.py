"""spark-submit jobs/forget_user.py …: the same as ``dedup-storage forget-user …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("forget-user")
