"""Object stores: the same catalog properties as each client names them. Pure.

A configuration names its store once, in ``catalog.properties``, by the names that PyIceberg and Java's ``FileIO``
share (``s3.endpoint``, ``s3.access-key-id``, …). Arrow's file systems, Spark's own readers and ``deltalake`` are
told the same here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from dedup_storage.config import Settings
from dedup_storage.errors import ConfigError, MissingDependencyError

__all__ = [
    "HADOOP_NAMES",
    "S3_SCHEMES",
    "UNKNOWN_TO_DELTA",
    "check_store",
    "delta_options",
    "hadoop_settings",
    "missing_package",
    "of_hadoop",
    "scheme_of",
    "store_packages",
    "with_region",
]

S3_SCHEMES = ("s3", "s3a", "s3n")
# Java names the region once for all of its clients, PyIceberg once for the store.
_REGIONS = ("s3.region", "client.region")
_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
# The package drops what it does not know without a word, and asks the machine for keys instead.
UNKNOWN_TO_DELTA = "gcs.oauth2.token"
_DELTA = {
    "s3.endpoint": "AWS_ENDPOINT_URL",
    "s3.access-key-id": "AWS_ACCESS_KEY_ID",
    "s3.secret-access-key": "AWS_SECRET_ACCESS_KEY",
    "s3.session-token": "AWS_SESSION_TOKEN",
    "s3.region": "AWS_REGION",
    "s3.anonymous": "AWS_SKIP_SIGNATURE",
    "s3.force-virtual-addressing": "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "gcs.oauth2.token": UNKNOWN_TO_DELTA,
    "gcs.service.host": "GOOGLE_BASE_URL",
    "adls.account-name": "AZURE_STORAGE_ACCOUNT_NAME",
    "adls.account-key": "AZURE_STORAGE_ACCOUNT_KEY",
    "adls.sas-token": "AZURE_STORAGE_SAS_TOKEN",
    "adls.client-id": "AZURE_STORAGE_CLIENT_ID",
    "adls.client-secret": "AZURE_STORAGE_CLIENT_SECRET",
    "adls.tenant-id": "AZURE_STORAGE_TENANT_ID",
}
_HADOOP = {
    "s3.endpoint": "fs.s3a.endpoint",
    "s3.access-key-id": "fs.s3a.access.key",
    "s3.secret-access-key": "fs.s3a.secret.key",
    "s3.session-token": "fs.s3a.session.token",
    "s3.region": "fs.s3a.endpoint.region",
    "s3.path-style-access": "fs.s3a.path.style.access",
}

_NOBODY = "org.apache.hadoop.fs.s3a.AnonymousAWSCredentialsProvider"
HADOOP_NAMES = tuple(_HADOOP.values())
# Hadoop's file system for each scheme, for messages, and what reads S3 with the Hadoop that Spark brings.
_FILE_SYSTEMS = {
    "s3": "org.apache.hadoop:hadoop-aws:3.4.2",
    "gs": "com.google.cloud.bigdataoss:gcs-connector",
    "abfs": "org.apache.hadoop:hadoop-azure:3.4.2",
}
# It wants Amazon's whole kit, some 600 MB. The part of it that Iceberg brings for itself is enough with two modules of
# the same release, whose own dependencies are there already. Iceberg's release -> that of the kit in its bundle.
_KITS = {"1.12.0": "2.54.17"}
_KIT_MODULES = ("apache-client", "s3-transfer-manager")
_KIT_HAS = (
    "annotations", "apache5-client", "arns", "auth", "aws-core", "aws-query-protocol", "aws-xml-protocol", "bundle",
    "checksums", "checksums-spi", "crt-core", "endpoints-spi", "http-auth", "http-auth-aws",
    "http-auth-aws-eventstream", "http-auth-spi", "http-client-spi", "identity-spi", "json-utils", "metrics-spi",
    "netty-nio-client", "profiles", "protocol-core", "regions", "retries", "retries-spi", "s3", "sdk-core",
    "third-party-jackson-core", "utils", "utils-lite",
)  # fmt: skip
_EXCLUDED = (
    *(f"software.amazon.awssdk:{name}" for name in _KIT_HAS),
    "commons-codec:commons-codec",
    "commons-logging:commons-logging",
    "org.reactivestreams:reactive-streams",
    "org.slf4j:slf4j-api",
    "software.amazon.s3.analyticsaccelerator:analyticsaccelerator-s3",
)
_RUNTIME = re.compile(r"org\.apache\.iceberg:iceberg-spark-runtime-[^:]+:(?P<version>[^:]+)")


def scheme_of(place: str) -> str:
    """The scheme of an address; empty for a path."""
    return place.partition("://")[0].lower() if "://" in place else ""


def with_region(properties: Mapping[str, str]) -> dict[str, str]:
    """Catalog properties with the region under each client's name for it.

    A store at an address of its own takes the environment's where they name none; else clients would ask AWS for it.
    """
    region = next((properties[name] for name in _REGIONS if name in properties), None)
    if region is None and "s3.endpoint" in properties:
        region = next((os.environ[name] for name in _VARIABLES if os.environ.get(name)), None)
    return dict(properties) if region is None else {**dict.fromkeys(_REGIONS, region), **properties}


def delta_options(properties: Mapping[str, str]) -> dict[str, str]:
    """Catalog properties as the ``deltalake`` package names them."""
    known = with_region(properties)
    options = {name: known[key] for key, name in _DELTA.items() if key in known}
    if options.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        # A store inside a network; the package takes nothing but https unless it is told.
        options["AWS_ALLOW_HTTP"] = "true"
    return options


def hadoop_settings(properties: Mapping[str, str]) -> dict[str, str]:
    """Catalog properties as Hadoop's S3A names them: what Spark reads plain files and Delta tables with."""
    known = with_region(properties)
    found = {name: known[key] for key, name in _HADOOP.items() if key in known}
    if known.get("s3.anonymous", "").lower() == "true":
        found["fs.s3a.aws.credentials.provider"] = _NOBODY
    return found


def of_hadoop(settings: Mapping[str, str]) -> dict[str, str]:
    """What ``hadoop_settings`` made, back as catalog properties."""
    return with_region({key: settings[name] for key, name in _HADOOP.items() if name in settings})


def check_store(settings: Settings, environ: Mapping[str, str] | None = None) -> None:
    """Refuse a store that some client would refuse in the middle of a job.

    Raises:
        ConfigError: it lies at an address of its own and no region is named: Java signs nothing without one. A REST
            catalog may name it with each table.
    """
    properties, environ = settings.catalog.properties, os.environ if environ is None else environ
    if "s3.endpoint" not in properties or settings.names_warehouse:
        return
    named = any(name in properties for name in _REGIONS) or any(environ.get(name) for name in _VARIABLES)
    if not named and not Path(environ.get("AWS_CONFIG_FILE") or Path.home() / ".aws" / "config").is_file():
        raise ConfigError(
            f"the store at {properties['s3.endpoint']} has no region",
            expected="s3.region among catalog.properties",
            fix="Set it; for a store that knows no regions any will do, for example us-east-1.",
        )


def store_packages(settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a session fetches to read and write an S3 store, and what it leaves out of that.

    Nothing where the settings tell of no such store, or name these packages themselves.
    """
    named = settings.spark.packages
    runtime = next((found for package in named if (found := _RUNTIME.fullmatch(package))), None)
    told = any(key.startswith(("s3.", "client.")) for key in settings.catalog.properties)
    told |= settings.catalog.properties.get("io-impl", "").endswith(".S3FileIO")
    if runtime is None or not (told or scheme_of(settings.warehouse) in S3_SCHEMES):
        return (), ()

    def absent(package: str) -> bool:
        return not any(other.startswith(package.rpartition(":")[0] + ":") for other in named)

    release, hadoop = runtime["version"], _FILE_SYSTEMS["s3"]
    bundle = f"org.apache.iceberg:iceberg-aws-bundle:{release}"
    added = tuple(filter(absent, (bundle, hadoop)))
    if hadoop not in added or release not in _KITS:
        return added, ()
    return (*added, *(f"software.amazon.awssdk:{name}:{_KITS[release]}" for name in _KIT_MODULES)), _EXCLUDED


def missing_package(scheme: str) -> MissingDependencyError:
    """The error for an address that a Spark session has no file system for."""
    kind = "s3" if scheme in S3_SCHEMES else "abfs" if scheme == "abfss" else scheme
    package = _FILE_SYSTEMS.get(kind)
    return MissingDependencyError(
        f"this Spark session cannot read {scheme}:// addresses",
        expected=f"the package {package}" if package else f"a Hadoop file system for {scheme}",
        fix="Add it to spark.packages." if package else "Start Spark with its jar.",
    )
