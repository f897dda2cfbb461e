"""Tables and versions, whatever their format: the protocol every format keeps, and what is the same in all of them.

Needs: ``layout``, ``schema``, ``config``, and ``spark`` where rows are read or written.
Gives: ``TableFormat`` and ``DatasetMetadata`` by ``formats`` and ``catalogs``, which alone know the formats' rooms.
May import: its rooms ``engine``, ``iceberg``, ``delta`` from those two modules only; nothing above it.
"""
