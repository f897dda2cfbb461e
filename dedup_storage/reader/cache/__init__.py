"""Bytes of remote files kept in a folder of this machine, for every process that reads through it.

Needs: a folder on a local disk.
Gives: ``FileCache``, which opens a table's Parquet files and keeps what was fetched of them.
May import: ``errors``, ``words``, ``lake``'s clients of files.
"""
