"""spark-submit jobs/late_labels.py …: the same as ``dedup-storage late-labels …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("late-labels")
