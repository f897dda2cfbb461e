"""Samples of whole users: a seeded hash, allocation among strata, definitions, estimates with intervals.

Needs: NumPy and pyarrow; no Spark.
Gives: definitions and records of named samples, and which users they take.
May import: ``config``, ``schema``, ``errors``, ``words``.
"""
