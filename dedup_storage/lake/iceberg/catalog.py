"""One catalog, two clients: the same settings as PyIceberg properties and as Spark settings."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from dedup_storage.config import CatalogType, Settings
from dedup_storage.errors import ConfigError, StorageError
from dedup_storage.lake.hiding import secrets_of
from dedup_storage.lake.stores import check_store, with_region
from dedup_storage.secrets import hidden

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

__all__ = [
    "CATALOG_FILE",
    "SCRATCH_TABLE",
    "is_scratch",
    "load_client",
    "open_catalog",
    "pyiceberg_properties",
    "spark_catalog_conf",
]

# The embedded catalog, inside the warehouse.
CATALOG_FILE = "catalog.db"
# What the names of tables begin with that are made to try a catalog, and go again. Some catalogs take no name that
# begins with an underscore.
SCRATCH_TABLE = "dedup_storage_probe_"
_SPARK_TYPES = {CatalogType.REST: "rest", CatalogType.HIVE: "hive", CatalogType.GLUE: "glue"}
# SQLite waits this long for another writer's lock before it gives up; JdbcCatalog does not retry SQLITE_BUSY.
_BUSY_TIMEOUT_MS = 60_000


def is_scratch(table: str) -> bool:
    """Whether a table of a dataset's namespace is there only to try the catalog."""
    return table.startswith(SCRATCH_TABLE)


def _sqlite_path(settings: Settings) -> str:
    directory = settings.local_warehouse
    if directory is None:
        raise ConfigError(
            "the embedded catalog needs a local warehouse",
            expected="a directory",
            got=settings.warehouse,
            fix="Set catalog.type to rest, jdbc, hive or glue for object storage (see conf/cluster.yaml).",
        )
    if "?" in str(directory):
        raise ConfigError(
            "the embedded catalog cannot lie in a folder with ? in its name", got=str(directory), fix="Name another."
        )
    directory.mkdir(parents=True, exist_ok=True)
    return str(directory / CATALOG_FILE)


def _uri(settings: Settings) -> str:
    if settings.catalog.uri is None:
        raise ConfigError(
            f"catalog.uri is missing for a {settings.catalog.type.value} catalog",
            expected="the address of its server",
            fix="Set catalog.uri (see conf/cluster.yaml).",
        )
    return settings.catalog.uri


def _sql_uri(settings: Settings) -> tuple[str, str]:
    """Scheme and the rest of a SQL catalog's address.

    Raises:
        ConfigError: it is no address, or a user or a password stands in it: Java's drivers take them for a part of the
            host's name.
    """
    scheme, slashes, rest = _uri(settings).removeprefix("jdbc:").partition("://")
    if not slashes:
        raise ConfigError("catalog.uri is no address", expected="postgresql://HOST:PORT/DATABASE")
    # PostgreSQL's own tools know it by a shorter name too.
    scheme = "postgresql" if scheme == "postgres" else scheme
    if "@" in rest.partition("/")[0]:
        raise ConfigError(
            "catalog.uri names a user",
            expected=f"{scheme}://HOST:PORT/DATABASE alone",
            fix="Set catalog.user, and the password by DEDUP_STORAGE_CATALOG__PASSWORD.",
        )
    return scheme, rest


def _secrets(settings: Settings) -> dict[str, str]:
    found = {"token": settings.catalog.token, "credential": settings.catalog.credential}
    return {key: secret.get_secret_value() for key, secret in found.items() if secret is not None}


def load_client(settings: Settings) -> Catalog:
    """PyIceberg's client of the catalog.

    Raises:
        StorageError: a property does not fit.
        OSError: the catalog does not answer.
    """
    from pyiceberg.catalog import load_catalog

    try:
        return load_catalog(settings.catalog.name, **pyiceberg_properties(settings))
    except ConfigError:
        raise
    except ValueError as error:
        # The client quotes the header that it cannot send, with the token.
        raise _unopened(settings, error) from None


def open_catalog(settings: Settings) -> Catalog:
    """The same, asked once.

    Raises:
        StorageError: it cannot be reached, or a property does not fit.
    """
    try:
        return load_client(settings)
    except StorageError:
        raise
    except OSError as error:
        raise _unopened(settings, error) from error


def _unopened(settings: Settings, error: Exception) -> StorageError:
    what = f"the {settings.catalog.type.value} catalog cannot be opened: {error}"
    return StorageError(hidden(what, secrets_of(settings)), fix="Check the section catalog.")


def pyiceberg_properties(settings: Settings) -> dict[str, str]:
    """Properties for ``pyiceberg.catalog.load_catalog(settings.catalog.name, **properties)``."""
    check_store(settings)
    catalog = settings.catalog
    properties = {"warehouse": settings.warehouse_uri, **with_region(catalog.properties), **_secrets(settings)}
    if catalog.type is CatalogType.SQLITE:
        # SQLAlchemy decodes what it takes for a file.
        properties |= {"type": "sql", "uri": f"sqlite:///{quote(_sqlite_path(settings))}"}
    elif catalog.type is CatalogType.JDBC:
        scheme, rest = _sql_uri(settings)
        login = ""
        if catalog.user:
            # Any character may stand in them, also those that mean something in an address.
            password = f":{quote(catalog.password.get_secret_value(), safe='')}" if catalog.password else ""
            login = f"{quote(catalog.user, safe='')}{password}@"
        driver = "+psycopg2" if scheme == "postgresql" else ""
        properties |= {"type": "sql", "uri": f"{scheme}{driver}://{login}{rest}"}
    else:
        properties["type"] = catalog.type.value
        if catalog.type is not CatalogType.GLUE:
            properties["uri"] = _uri(settings)
    return properties


def spark_catalog_conf(settings: Settings) -> dict[str, str]:
    """Spark settings that define the catalog under its name."""
    check_store(settings)
    catalog = settings.catalog
    prefix = f"spark.sql.catalog.{catalog.name}"
    # Other processes commit to the same tables, so a cached table would be a stale one.
    given = {**with_region(catalog.properties), **_secrets(settings)}
    inner = {"warehouse": settings.warehouse_uri, "cache-enabled": "false", **given}
    if catalog.type is CatalogType.SQLITE:
        options = f"journal_mode=WAL&busy_timeout={_BUSY_TIMEOUT_MS}"
        inner |= {"type": "jdbc", "uri": f"jdbc:sqlite:{_sqlite_path(settings)}?{options}", "jdbc.schema-version": "V1"}
    elif catalog.type is CatalogType.JDBC:
        inner |= {"type": "jdbc", "uri": f"jdbc:{'://'.join(_sql_uri(settings))}", "jdbc.schema-version": "V1"}
        if catalog.user:
            inner["jdbc.user"] = catalog.user
        if catalog.password:
            inner["jdbc.password"] = catalog.password.get_secret_value()
    else:
        inner["type"] = _SPARK_TYPES[catalog.type]
        if catalog.type is not CatalogType.GLUE:
            inner["uri"] = _uri(settings)
    return {
        prefix: "org.apache.iceberg.spark.SparkCatalog",
        **{f"{prefix}.{key}": value for key, value in inner.items()},
    }
