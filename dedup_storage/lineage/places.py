"""Names of data as OpenLineage's naming has them: a store and a path, a catalog and a table. No secret is in any."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from dedup_storage.config import CatalogType, Settings
from dedup_storage.lineage.model import Place

__all__ = ["catalog_place", "place_of"]

# Hadoop's names of the same store.
_SAME = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
# A bucket has no port.
_BUCKETS = ("s3", "s3a", "s3n", "gs", "gcs")
# Before the @ of these stands a container, which belongs to the name.
_CONTAINERS = ("abfs", "abfss", "wasb", "wasbs")


def place_of(address: str) -> Place:
    """A path or an address: its store and the path in it, without user, password, query and fragment.

    Example:
        >>> place_of("s3a://key:secret@logs/clicks/day=1/?X-Amz-Signature=5e")
        Place(namespace='s3://logs', name='clicks/day=1')
    """
    if address.startswith("file:"):
        return Place("file", "/" + unquote(urlsplit(address).path).strip("/"))
    if "://" not in address:
        return Place("file", str(Path(address).absolute()).rstrip("/") or "/")
    scheme, host, path = _parts(address)
    name = path.strip("/")
    # Paths of HDFS start after the name node; an object store's key has no slash before it.
    return Place(f"{scheme}://{host}", f"/{name}" if scheme in ("hdfs", "viewfs") or not name else name)


def catalog_place(settings: Settings, table: str) -> Place:
    """A table by its name in the catalog, or in the folder of a format that has none.

    Args:
        settings: Settings of the lake.
        table: ``namespace.table``; the catalog's name may stand before it.
    """
    catalog = settings.catalog
    if not settings.has_catalog:
        return place_of(f"{settings.warehouse_uri.rstrip('/')}/{table.replace('.', '/')}")
    table = table.removeprefix(f"{catalog.name}.")
    if catalog.uri is not None and catalog.type is not CatalogType.SQLITE:
        scheme, host, path = _parts(catalog.uri)
        # Hive's Thrift address is known as hive://, PostgreSQL's as postgres://.
        scheme = {"thrift": "hive", "postgresql": "postgres"}.get(scheme, scheme)
        return Place(f"{scheme}://{host}/{path}".rstrip("/"), table)
    if catalog.type is CatalogType.GLUE:
        return Place(f"glue:{catalog.name}", table)
    home = place_of(settings.warehouse_uri)
    return Place(home.namespace + (":" if home.namespace == "file" else "/") + home.name, table)


def _parts(address: str) -> tuple[str, str, str]:
    """Scheme, host with its port, and path of an address."""
    address = address.removeprefix("jdbc:")
    scheme, _, rest = address.partition("://")
    # Not urlsplit: a password may hold any character, and a glob's brackets are no IPv6 address.
    authority, _, path = rest.partition("/")
    scheme = scheme.lower()
    user, _, host = authority.rpartition("@")
    if scheme in _CONTAINERS and user and ":" not in user:
        host = f"{user}@{host}"
    port = authority.rpartition(":")[2].isdigit() and scheme not in _BUCKETS
    if "@" in path and "@" not in authority and ":" in authority and not port:
        # A slash inside a key: what is before the last @ belongs to it.
        host, _, path = path.rpartition("@")[2].partition("/")
    for mark in "?#":
        host, path = host.partition(mark)[0], path.partition(mark)[0]
    return _SAME.get(scheme, scheme), host, path
