"""Private calls into Spark, Iceberg and Delta over Py4J, all in this one place.

Needs: a running session.
Gives: plain functions and values; a test of each says at once when a new release changed what it calls.
May import: ``spark`` and below.
"""
