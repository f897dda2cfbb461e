"""spark-submit jobs/infer_schema.py …: the same as ``dedup-storage infer-schema …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("infer-schema")
