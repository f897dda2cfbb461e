"""Tables and versions, whatever their format: the protocol every format keeps, and what is the same in all of them.

Needs: ``layout``, ``schema``, ``config``, and ``spark`` where rows are read or written.
Gives: ``catalogs.open_lake`` without Spark, ``formats.table_format`` and ``session.get_spark`` with it; ``rooms`` says
    what a format's room must have.
May import: nothing above it; its rooms ``iceberg`` and ``delta`` by their names alone, ``engine`` anywhere.
"""
