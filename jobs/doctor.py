"""``spark-submit jobs/doctor.py …``: the same as ``dedup-storage doctor …``."""

from dedup_storage.cli import run_job

if __name__ == "__main__":
    run_job("doctor")
