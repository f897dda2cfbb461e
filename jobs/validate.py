"""spark-submit jobs/validate.py …: the same as ``dedup-storage validate …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("validate")
