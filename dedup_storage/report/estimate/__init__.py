"""What a log would need in other layouts, with intervals.

Needs: a draw of users.
Gives: estimates, baselines, the floor, curves.
May import: ``report.draw``, ``report.parquet``.
"""
