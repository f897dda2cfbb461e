"""How many bytes a log needs, column by column, and how many it would need stored otherwise.

Needs: pyarrow, and the files of a dataset's version or of a raw log.
Gives: reports, estimates, and proposals of Parquet settings.
May import: ``lake``'s metadata, ``sampling``, ``dedup``.
"""
