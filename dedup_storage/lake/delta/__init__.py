"""Datasets of Delta tables.

Needs: ``lake``'s protocol, ``lake.engine``, deltalake.
Gives: what ``lake.rooms`` asks for: ``format.DeltaFormat`` with Spark, ``metadata.DeltaLake`` without it, a session's
    settings, the reads in a plan.
May import: ``lake``'s neutral modules, never another format's room.
"""
