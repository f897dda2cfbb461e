"""spark-submit jobs/generate.py …: the same as ``dedup-storage generate …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("generate")
