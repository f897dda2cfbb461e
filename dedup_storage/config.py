"""Settings: read from conf/*.yaml and ``DEDUP_STORAGE_*``, validated, frozen. The only reader of conf/.

Precedence, highest first: environment variables, the configuration file, defaults. A nested key joins its levels
with two underscores: ``DEDUP_STORAGE_CATALOG__URI``. Secrets come from the environment alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from dedup_storage.documents import WholeNumber
from dedup_storage.errors import ConfigError
from dedup_storage.places import check_place, local_folder, place_uri
from dedup_storage.schema import check_name, explain_validation
from dedup_storage.secrets import holds_secret, secrets_in
from dedup_storage.settings_file import CONFIG_VARIABLE, default_config, default_packages, embedded_file, read_file
from dedup_storage.variables import ENV_PREFIX, refuse_same, set_variable, variable_place

__all__ = [
    "FORMATS",
    "CatalogSettings",
    "CatalogType",
    "LineageSettings",
    "QualitySettings",
    "Settings",
    "SparkSettings",
    "WriteSettings",
    "check_format",
    "default_config",
    "default_packages",
    "load_settings",
]

# The table formats; each has a room of its name in ``dedup_storage.lake``.
FORMATS = ("iceberg", "delta")
# Those whose tables a catalog lists; the others lie in folders of the warehouse.
_CATALOGUED = ("iceberg",)
# Read by the command line, not settings of their own.
_NOT_SETTINGS = frozenset(ENV_PREFIX + name for name in ("CONFIG", "DATASET", "DEBUG", "QUIET", "RUN_ID"))
# Settings that are addresses: a login has no place in them, for they are shown.
_ADDRESSES = ("warehouse", "catalog.uri", "spark.scratch", "quality.docs", "lineage.journal")
# Catalog properties that settings give -> the setting; they would win over it in one client and lose in the other.
_OWN_PROPERTIES = {
    "type": "catalog.type", "uri": "catalog.uri", "jdbc.user": "catalog.user",
    "jdbc.password": ENV_PREFIX + "CATALOG__PASSWORD", "token": ENV_PREFIX + "CATALOG__TOKEN",
    "credential": ENV_PREFIX + "CATALOG__CREDENTIAL",
}  # fmt: skip
# What the toolkit rests on: versions lie in a catalog's second layout, and other processes commit to the same tables.
_FIXED_PROPERTIES = {"jdbc.schema-version": "V1", "cache-enabled": "false"}

# Nothing at all is no folder, address or name: it would be the working directory, or the root.
_Text = Annotated[str, Field(min_length=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CatalogType(StrEnum):
    """Catalog kinds that Spark and PyIceberg both speak."""

    SQLITE = "sqlite"
    JDBC = "jdbc"
    REST = "rest"
    HIVE = "hive"
    GLUE = "glue"


class CatalogSettings(_Frozen):
    """The Iceberg catalog.

    Attributes:
        name: Shared by Spark and PyIceberg (it is a key column of SQL catalogs).
        type: ``sqlite`` is the embedded default: a file in the warehouse, for one machine.
        uri: REST or Thrift address, or ``postgresql://host/db`` for ``jdbc``.
        user: User of a ``jdbc`` catalog.
        password, token, credential: From the environment only.
        properties: Further properties, given to Spark and PyIceberg alike.
    """

    name: str = "lake"
    type: CatalogType = CatalogType.SQLITE
    uri: _Text | None = None
    user: _Text | None = None
    password: SecretStr | None = None
    token: SecretStr | None = None
    credential: SecretStr | None = None
    # Keys of a store may be among them.
    properties: Mapping[str, str] = Field(default_factory=dict, repr=False)

    @field_validator("properties")
    @classmethod
    def _has_no_setting(cls, given: Mapping[str, str]) -> Mapping[str, str]:
        for key, setting in _OWN_PROPERTIES.items():
            if key in given:
                raise ValueError(f"{key} is no property here; it is told by {setting}")
        for key, value in _FIXED_PROPERTIES.items():
            if given.get(key, value).lower() != value.lower():
                raise ValueError(f"{key} is always {value}; leave it out")
        return given

    @model_validator(mode="after")
    def _uses_what_it_is_given(self) -> Self:
        if self.uri is not None and self.type is CatalogType.SQLITE:
            raise ValueError("uri is given to the embedded catalog, which has none; say which type it is of")
        if self.uri is not None and self.type is CatalogType.GLUE:
            raise ValueError("uri is given to a catalog of type glue; name the address as glue.endpoint in properties")
        if self.user is not None and self.type is not CatalogType.JDBC:
            raise ValueError(f"user is given to a catalog of type {self.type.value}, which knows none")
        if self.type is CatalogType.JDBC and self.password is not None and self.user is None:
            raise ValueError("password is given, and no user")
        return self


class SparkSettings(_Frozen):
    """The Spark session a job starts when none is given.

    Attributes:
        master: ``None`` leaves it to spark-submit.
        packages: Maven coordinates; empty when the cluster brings its own jars. Those of Delta and of an S3 store are
            added where the settings tell of them.
        scratch: Folder that this machine and the cluster both reach, for rows that are passed between them; ``None``
            puts them under the warehouse.
        conf: Further Spark settings.
    """

    master: _Text | None = None
    packages: tuple[str, ...] = ()
    scratch: _Text | None = None
    # Keys of a store may be among them.
    conf: Mapping[str, str] = Field(default_factory=dict, repr=False)


class QualitySettings(_Frozen):
    """The quality gate.

    Attributes:
        enabled: Whether writes are audited before publication.
        docs: Directory for verdicts and Data Docs; ``None`` puts them under the warehouse when that is local.
        expectations: YAML file with the user's own expectations.
    """

    enabled: bool = True
    docs: _Text | None = None
    expectations: _Text | None = None


class WriteSettings(_Frozen):
    """How raw logs are collapsed.

    Attributes:
        pointer_max_requests: Most requests of one write whose row pointers are broadcast (16 bytes each);
            beyond it request rows are collapsed by a sorting aggregate.
        conflict_retries: How often a publication is tried again after losing a race for the catalog.
    """

    pointer_max_requests: WholeNumber = Field(default=4_000_000, ge=0)
    conflict_retries: WholeNumber = Field(default=20, ge=0)


class LineageSettings(_Frozen):
    """OpenLineage events of what runs read and publish; none are sent unless ``transport`` says where to.

    Attributes:
        transport: Where events go, as OpenLineage's own configuration has it: ``type``, ``url``, ``endpoint``, ``auth``
            and what else the type takes. Keys, tokens and passwords in it come from the environment only.
        namespace: Namespace of the jobs, such as the name of the scheduler that starts them.
        journal: Folder that notes the runs under way, which every machine that runs jobs reaches; ``None`` puts it
            under the warehouse.
    """

    # Keys of the receiver may be among them.
    transport: Mapping[str, Any] = Field(default_factory=dict, repr=False)
    namespace: str = Field(default="dedup_storage", min_length=1)
    journal: _Text | None = None

    @model_validator(mode="after")
    def _goes_somewhere(self) -> Self:
        if self.transport and not isinstance(self.transport.get("type"), str):
            raise ValueError("transport has no type; OpenLineage's are http, kafka, file, console and others")
        if not self.transport and self.model_fields_set - {"transport"}:
            raise ValueError("transport is missing, without which no event is sent")
        return self

    @property
    def on(self) -> bool:
        """Whether events are sent."""
        return bool(self.transport)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts of the transport that nobody may see."""
        return tuple(str(value) for _, value in secrets_in(self.transport, ""))


class Settings(_Frozen):
    """All settings of a job.

    Attributes:
        warehouse: Folder or address under which tables lie; a relative path belongs to the working directory, ``~`` is
            the user's home. A REST catalog is given it as it stands: there it is the name or the address of one of the
            server's warehouses.
        format: Table format of datasets: ``iceberg``, or ``delta`` (a folder for each table, no catalog).
        catalog: The Iceberg catalog.
        spark: The Spark session a job starts when none is given.
        quality: The quality gate.
        write: How raw logs are collapsed.
        lineage: OpenLineage events.
    """

    warehouse: _Text = "warehouse"
    format: str = "iceberg"
    catalog: CatalogSettings = CatalogSettings()
    spark: SparkSettings = SparkSettings()
    quality: QualitySettings = QualitySettings()
    write: WriteSettings = WriteSettings()
    lineage: LineageSettings = LineageSettings()
    _origin: str = PrivateAttr("given in Python")

    @property
    def origin(self) -> str:
        """Where the settings were read from, for messages."""
        return self._origin

    def __eq__(self, other: object) -> bool:
        # Where they were read from makes no difference.
        return isinstance(other, Settings) and self.model_dump() == other.model_dump()

    @property
    def names_warehouse(self) -> bool:
        """Whether the warehouse is a REST catalog's, which alone knows where its tables lie."""
        return self.has_catalog and self.catalog.type is CatalogType.REST

    @property
    def warehouse_uri(self) -> str:
        """The warehouse as an absolute path or a URI with its scheme; a REST catalog's as it was given."""
        return self.warehouse if self.names_warehouse else place_uri(self.warehouse)

    @property
    def has_catalog(self) -> bool:
        """Whether a catalog lists the tables of the format; else they lie in folders of the warehouse."""
        return self.format in _CATALOGUED

    @property
    def local_warehouse(self) -> Path | None:
        """The warehouse's directory, or ``None`` when it is remote or a REST catalog's."""
        return None if self.names_warehouse else local_folder(self.warehouse)

    @property
    def shared_folder(self) -> str | None:
        """Folder that every machine of a job reaches; ``None`` where the warehouse is a REST catalog's name."""
        if self.spark.scratch is not None:
            return place_uri(self.spark.scratch)
        if self.names_warehouse and "://" not in self.warehouse:
            return None
        return f"{self.warehouse_uri.rstrip('/')}/_scratch"

    @property
    def docs_folder(self) -> Path:
        """Directory of the quality gate's verdicts and Data Docs, a folder for each dataset in it.

        Raises:
            ConfigError: ``quality.docs`` is not a local directory, or is missing while the warehouse is remote.
        """
        docs, warehouse = self.quality.docs, self.local_warehouse
        if docs is None:
            if warehouse is None:
                raise ConfigError(
                    "quality.docs is missing",
                    expected="a directory for verdicts and Data Docs",
                    got="a remote warehouse and no quality.docs",
                    fix="Set quality.docs to a directory of the driver's machine, or quality.enabled to false.",
                )
            return warehouse / "_quality"
        folder = local_folder(docs)
        if folder is None:
            raise ConfigError(
                "quality.docs is not a local directory",
                got=docs.partition("://")[0] + "://…",
                fix="Name a directory of the driver's machine, and copy it from there.",
            )
        return folder

    @property
    def lineage_folder(self) -> str:
        """Folder of the lineage journal, a path or an address.

        Raises:
            ConfigError: ``lineage.journal`` is missing while the warehouse is the name of a REST catalog's.
        """
        if self.lineage.journal is not None:
            return place_uri(self.lineage.journal)
        if self.names_warehouse and "://" not in self.warehouse:
            raise ConfigError(
                "lineage.journal is missing",
                expected="a folder that notes the runs under way",
                got=f"the warehouse {self.warehouse}, a name, which tells of no folder",
                fix="Set lineage.journal to a folder that every machine that runs jobs reaches.",
            )
        return f"{self.warehouse_uri.rstrip('/')}/_lineage"

    @model_validator(mode="after")
    def _names_places(self) -> Self:
        places = {"spark.scratch": self.spark.scratch, "quality.docs": self.quality.docs}
        places |= {"lineage.journal": self.lineage.journal}
        if not self.names_warehouse:
            places["warehouse"] = self.warehouse
        for setting, place in places.items():
            if place is not None:
                check_place(place, setting)
        return self


def load_settings(path: str | Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read settings from a file and the environment.

    Args:
        path: YAML file; ``None`` takes the one that ``DEDUP_STORAGE_CONFIG`` names, else ``default_config()``.
        environ: Environment; ``os.environ`` when not given.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, a value has the wrong type, or a secret stands
            in the file. Never repeats a value, so no secret is printed.
    """
    environ = os.environ if environ is None else environ
    path = (environ.get(CONFIG_VARIABLE) or default_config()) if path is None else path
    values = read_file(path)
    given = sorted(v for v in environ if v.startswith(ENV_PREFIX) and v not in _NOT_SETTINGS)
    refuse_same(given)
    for variable in given:
        set_variable(values, variable, environ[variable])
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        told = explain_validation(error, Settings)
        wrong = {tuple(map(str, problem["loc"])) for problem in error.errors(include_input=False)}
        # A scheduler or a cluster sets some by itself: Kubernetes for a service of the toolkit's name.
        named = [v for v in given if any(place[: len(variable_place(v))] == variable_place(v) for place in wrong)]
        raise ConfigError(
            f"the settings from {path} and the environment are not valid: {told}",
            got=f"the {'variable' if len(named) == 1 else 'variables'} {', '.join(named)}" if named else None,
        ) from None
    check_name(settings.catalog.name, "catalog name")
    check_format(settings.format)
    _refuse_logins(settings)
    settings._origin = _origin(path, given)
    return settings


def _refuse_logins(settings: Settings) -> None:
    """Refuse an address with a password or a key in it.

    Raises:
        ConfigError: names the setting; the address is not repeated.
    """
    for dotted in _ADDRESSES:
        value: Any = settings
        for part in dotted.split("."):
            value = getattr(value, part)
        if isinstance(value, str) and holds_secret(value):
            ways = {
                "catalog.uri": f"Set {ENV_PREFIX}CATALOG__PASSWORD with catalog.user, {ENV_PREFIX}CATALOG__TOKEN or "
                f"{ENV_PREFIX}CATALOG__CREDENTIAL.",
            }
            raise ConfigError(
                f"{dotted} names a user or a key",
                expected="an address alone, which is shown in messages",
                fix=ways.get(dotted, "Give the store's keys by its own variables, or a role."),
            )


def check_format(name: str) -> str:
    """The name of a table format, as it is.

    Raises:
        ConfigError: there is no such format.
    """
    if name not in FORMATS:
        raise ConfigError("the setting format is not valid", expected=" or ".join(FORMATS), got=name)
    return name


def _origin(path: str | Path, variables: Sequence[str]) -> str:
    """The file, and the variables that changed what it says."""
    file = "the embedded defaults" if Path(path) == embedded_file() else str(Path(path).resolve())
    return f"{file} with {', '.join(variables)}" if variables else file
