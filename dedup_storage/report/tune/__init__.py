"""Which Parquet settings suit a table, tried on a sample.

Needs: a drawn sample and ``report.parquet``'s byte counts.
Gives: proposals and their table properties.
May import: ``report.draw``, ``report.parquet``.
"""
