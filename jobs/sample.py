"""spark-submit jobs/sample.py …: the same as ``dedup-storage sample …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("sample")
