"""Datasets of Delta tables.

Needs: ``lake``'s protocol, ``lake.engine``, deltalake.
Gives: ``format.DeltaFormat`` with Spark, ``metadata.DeltaLake`` without it.
May import: ``lake``'s neutral modules, never another format's room.
"""
