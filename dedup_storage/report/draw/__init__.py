"""A draw of whole users, drawn from files and held collapsed.

Needs: ``report.parquet``.
Gives: ``LogDraw`` and what repeats in it.
May import: ``report.parquet``.
"""
