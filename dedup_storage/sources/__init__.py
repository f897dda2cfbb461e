"""Raw logs and other inputs from outside, before they are a dataset.

An address (a file, a folder, a table) is opened once, whatever the command: ``open_source`` says what it is, which
files it has now, and one schema over all of them. Spark and Arrow then read the same Parquet files with that schema;
what is no Parquet, or is Parquet that Spark reads otherwise than Arrow, is made plain Parquet in a scratch folder.

Needs: ``schema``, ``lake``, ``spark``, ``report`` (its list of files).
Gives: ``Source``, ``RawLog``, the grains and schema that a log suggests, users and rows named on a command line.
May import: ``report``, ``lake`` and below.
"""
