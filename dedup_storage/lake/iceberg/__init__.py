"""Datasets of Iceberg tables.

Needs: ``lake``'s protocol, ``lake.engine``, PyIceberg.
Gives: what ``lake.rooms`` asks for: ``format.IcebergFormat`` with Spark, ``metadata.Lake`` without it, a session's
    settings, the reads in a plan.
May import: ``lake``'s neutral modules, never another format's room.
"""
