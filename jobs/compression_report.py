"""spark-submit jobs/compression_report.py …: the same as ``dedup-storage report …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("compression-report")
