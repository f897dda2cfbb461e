"""What Parquet files hold: footers, pages, encodings, and the bytes that a writer would store.

Needs: pyarrow and ``lake``'s list of a version's files.
Gives: stored bytes per column, and bytes counted without writing.
May import: nothing else of ``report``.
"""
