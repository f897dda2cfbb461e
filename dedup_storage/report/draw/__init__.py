"""A sample of whole users, drawn from files and held collapsed.

Needs: ``report.parquet``.
Gives: ``UserSample`` and what repeats in it.
May import: ``report.parquet``.
"""
