"""The file that settings are read from: which one, its values, no secret among them. The only reader of conf/."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from dedup_storage.documents import read_values
from dedup_storage.engines import of_engine
from dedup_storage.errors import ConfigError
from dedup_storage.secrets import secrets_in
from dedup_storage.variables import COMPOUND, ENV_PREFIX, LEVELS

__all__ = ["CONFIG_VARIABLE", "FILE_SECRETS", "default_config", "default_packages", "embedded_file", "read_file"]

CONFIG_VARIABLE = ENV_PREFIX + "CONFIG"
_CONFIG_HERE = Path("conf/local.yaml")
FILE_SECRETS = ("catalog.password", "catalog.token", "catalog.credential")


def read_file(path: str | Path) -> dict[str, Any]:
    """The values of a settings file, by section.

    Raises:
        ConfigError: it cannot be read, or a secret stands in it; no value is repeated.
    """
    values = _without_empty(_read(path))
    if Path(path) == embedded_file():
        values["spark"]["packages"] = list(default_packages())
    for dotted in FILE_SECRETS:
        section, key = dotted.split(".")
        if key in values.get(section, {}):
            raise ConfigError(
                f"the secret {dotted} stands in {path}",
                expected="it in the environment",
                fix=f"Remove it and set {ENV_PREFIX}{section.upper()}{LEVELS}{key.upper()}.",
            )
    _refuse_secrets(values.get("lineage", {}), "lineage", path)
    return values


def _refuse_secrets(values: Mapping[str, Any], place: str, path: str | Path) -> None:
    """Refuse a file that holds a secret of the lineage's receiver.

    Raises:
        ConfigError: names the key; the value is not repeated.
    """
    for here, _ in secrets_in(values, place):
        variable = ENV_PREFIX + here.upper().replace(".", LEVELS)
        raise ConfigError(
            f"the secret {here} stands in {path}",
            expected="it in the environment",
            fix=f"Remove it and set {variable}, or {variable.rpartition(LEVELS)[0]} as a whole, as JSON.",
        )


def default_config() -> Path:
    """``conf/local.yaml`` of the working directory when there is one, else the copy inside the package."""
    return _CONFIG_HERE if _CONFIG_HERE.is_file() else embedded_file()


def default_packages() -> tuple[str, ...]:
    """Maven coordinates of the embedded defaults: what was tried with the Spark that is installed."""
    return of_engine(_read(embedded_file())["spark"]["packages"])


def embedded_file() -> Path:
    return Path(str(resources.files("dedup_storage") / "local.yaml"))


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    """The file's values without sections, lists and mappings in which every line is commented out."""
    for name, keys in COMPOUND.items():
        if values.get(name, ()) is None:
            del values[name]
        elif name in values and isinstance(values[name], dict):
            section = values[name]
            values[name] = {k: v for k, v in section.items() if v is not None or k not in keys}
    return values


def _read(path: str | Path) -> dict[str, Any]:
    fix = f"Name a file with --config or {CONFIG_VARIABLE}."
    values = read_values(path, "the configuration", ConfigError, fix=fix, secret=True)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"the configuration {path} is not a mapping", expected="keys such as warehouse, catalog, spark"
        )
    for section in COMPOUND:
        if section in values and not isinstance(values[section] or {}, dict):
            raise ConfigError(f"the section {section} of {path} is not a mapping")
    return values
