"""Which Parquet settings suit a table, tried on a draw.

Needs: a draw of users and ``report.parquet``'s byte counts.
Gives: proposals and their table properties.
May import: ``report.draw``, ``report.parquet``.
"""
