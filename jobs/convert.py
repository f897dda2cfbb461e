"""spark-submit jobs/convert.py …: the same as ``dedup-storage convert …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("convert")
