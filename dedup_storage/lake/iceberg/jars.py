"""The jars that Spark needs for Iceberg and the catalog of some settings. Pure."""

from __future__ import annotations

from dedup_storage.config import CatalogType, Settings, default_packages
from dedup_storage.lake.probing import Jar

__all__ = ["jars_needed"]

_POSTGRES = Jar("org.postgresql:postgresql:42.7.7", "org.postgresql.Driver", "the PostgreSQL catalog")
# Part of Iceberg's store class, or the scheme of an address -> bundle, a class of it.
_BUNDLES = {
    ("S3FileIO", "s3://", "s3a://"): ("iceberg-aws-bundle", "software.amazon.awssdk.services.s3.S3Client"),
    ("GCSFileIO", "gs://"): ("iceberg-gcp-bundle", "com.google.cloud.storage.Storage"),
    ("ADLSFileIO", "abfs://", "abfss://"): (
        "iceberg-azure-bundle",
        "com.azure.storage.file.datalake.DataLakeServiceClient",
    ),
}


def jars_needed(settings: Settings) -> list[Jar]:
    """Iceberg's own in every session; what its catalog and store need, where tables of the format lie in them."""
    packages = default_packages()
    runtime = next(p for p in packages if ":iceberg-spark-runtime" in p)
    found = [Jar(runtime, "org.apache.iceberg.spark.SparkCatalog", "Iceberg")]
    if not settings.has_catalog:
        return found
    catalog = settings.catalog
    if catalog.type is CatalogType.SQLITE:
        driver = next(p for p in packages if ":sqlite-jdbc" in p)
        found.append(Jar(driver, "org.sqlite.JDBC", "the embedded catalog"))
    if catalog.type is CatalogType.JDBC and "postgres" in str(catalog.uri).partition("://")[0]:
        found.append(_POSTGRES)
    store = catalog.properties.get("io-impl", settings.warehouse)
    version = runtime.rpartition(":")[2]
    for marks, (bundle, marker) in _BUNDLES.items():
        glue = catalog.type is CatalogType.GLUE and bundle == "iceberg-aws-bundle"
        if glue or store.endswith(marks[0]) or store.startswith(marks[1:]):
            found.append(Jar(f"org.apache.iceberg:{bundle}:{version}", marker, "the store"))
    return found
