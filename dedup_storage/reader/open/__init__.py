"""Opening a version without Spark: its files, the index of requests, the plan of a pass.

Needs: PyIceberg or deltalake, ``lake``'s metadata.
Gives: ``ReadPlan``.
May import: ``reader.decode`` and ``reader``'s shared modules; ``iceberg`` and ``delta`` alone know their format.
"""
