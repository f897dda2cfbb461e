"""Datasets of Iceberg tables.

Needs: ``lake``'s protocol, ``lake.engine``, PyIceberg.
Gives: ``format.IcebergFormat`` with Spark, ``metadata.Lake`` without it.
May import: ``lake``'s neutral modules, never another format's room.
"""
