"""One catalog, two clients: the same settings as PyIceberg properties and as Spark settings. Pure."""

from __future__ import annotations

from dedup_storage.config import CatalogType, Settings
from dedup_storage.errors import ConfigError

__all__ = ["CATALOG_FILE", "pyiceberg_properties", "spark_catalog_conf"]

# The embedded catalog, inside the warehouse.
CATALOG_FILE = "catalog.db"
_SPARK_TYPES = {CatalogType.REST: "rest", CatalogType.HIVE: "hive", CatalogType.GLUE: "glue"}
# SQLite waits this long for another writer's lock before it gives up; JdbcCatalog does not retry SQLITE_BUSY.
_BUSY_TIMEOUT_MS = 60_000


def _sqlite_path(settings: Settings) -> str:
    directory = settings.local_warehouse
    if directory is None:
        raise ConfigError(
            "the embedded catalog needs a local warehouse",
            expected="a directory",
            got=settings.warehouse,
            fix="Set catalog.type to rest, jdbc, hive or glue for object storage (see conf/cluster.yaml).",
        )
    directory.mkdir(parents=True, exist_ok=True)
    return str(directory / CATALOG_FILE)


def _uri(settings: Settings) -> str:
    if settings.catalog.uri is None:
        raise ConfigError(f"catalog.uri is missing for a {settings.catalog.type.value} catalog")
    return settings.catalog.uri


def _secrets(settings: Settings) -> dict[str, str]:
    found = {"token": settings.catalog.token, "credential": settings.catalog.credential}
    return {key: secret.get_secret_value() for key, secret in found.items() if secret is not None}


def pyiceberg_properties(settings: Settings) -> dict[str, str]:
    """Properties for ``pyiceberg.catalog.load_catalog(settings.catalog.name, **properties)``."""
    catalog = settings.catalog
    properties = {"warehouse": settings.warehouse_uri, **catalog.properties, **_secrets(settings)}
    if catalog.type is CatalogType.SQLITE:
        properties |= {"type": "sql", "uri": f"sqlite:///{_sqlite_path(settings)}"}
    elif catalog.type is CatalogType.JDBC:
        scheme, _, rest = _uri(settings).partition("://")
        login = ""
        if catalog.user:
            password = f":{catalog.password.get_secret_value()}" if catalog.password else ""
            login = f"{catalog.user}{password}@"
        driver = "+psycopg2" if scheme == "postgresql" else ""
        properties |= {"type": "sql", "uri": f"{scheme}{driver}://{login}{rest}"}
    else:
        properties["type"] = catalog.type.value
        if catalog.type is not CatalogType.GLUE:
            properties["uri"] = _uri(settings)
    return properties


def spark_catalog_conf(settings: Settings) -> dict[str, str]:
    """Spark settings that define the catalog under its name."""
    catalog = settings.catalog
    prefix = f"spark.sql.catalog.{catalog.name}"
    # Other processes commit to the same tables, so a cached table would be a stale one.
    inner = {"warehouse": settings.warehouse_uri, "cache-enabled": "false", **catalog.properties, **_secrets(settings)}
    if catalog.type is CatalogType.SQLITE:
        options = f"journal_mode=WAL&busy_timeout={_BUSY_TIMEOUT_MS}"
        inner |= {"type": "jdbc", "uri": f"jdbc:sqlite:{_sqlite_path(settings)}?{options}", "jdbc.schema-version": "V1"}
    elif catalog.type is CatalogType.JDBC:
        inner |= {"type": "jdbc", "uri": f"jdbc:{_uri(settings)}", "jdbc.schema-version": "V1"}
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
