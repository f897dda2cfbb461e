"""spark-submit jobs/versions.py …: the same as ``dedup-storage versions …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("versions")
