"""Servers that tests start on this machine and end by their process ids: PostgreSQL, an S3 store, a REST catalog.

Each is a context manager that raises ``Unavailable`` with what the machine lacks; ``conftest.py`` makes fixtures of
them, which skip a test with that reason. Nothing here needs an account or a network, except that the jars of the REST
catalog are downloaded once.
"""
