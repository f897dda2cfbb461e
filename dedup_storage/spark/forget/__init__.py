"""Erasing users: out of every table and every kept version, proved by a scan of the files."""

from dedup_storage.spark.forget.run import Forgetting
from dedup_storage.spark.forget.summary import ForgetSummary

__all__ = ["ForgetSummary", "Forgetting"]
