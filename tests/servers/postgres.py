"""A PostgreSQL server for as long as a test needs it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.processes import HOST, Unavailable, free_port, running, until

__all__ = ["DRIVER", "Postgres", "postgres"]

DRIVER = "org.postgresql:postgresql:42.7.7"


@dataclass(frozen=True)
class Postgres:
    """A server with one user.

    Attributes:
        uri: Its address, as ``catalog.uri`` names it.
        user, password: Of the user, who owns the database.
    """

    uri: str
    user: str
    password: str

    @property
    def environ(self) -> dict[str, str]:
        """The catalog as environment variables of the toolkit."""
        return {
            "DEDUP_STORAGE_CATALOG__TYPE": "jdbc",
            "DEDUP_STORAGE_CATALOG__URI": self.uri,
            "DEDUP_STORAGE_CATALOG__USER": self.user,
            "DEDUP_STORAGE_CATALOG__PASSWORD": self.password,
        }


@contextmanager
def postgres(password: str) -> Iterator[Postgres]:
    """A PostgreSQL server with the user ``iceberg``.

    Raises:
        Unavailable: it is not installed, or did not start.
    """
    programs = [shutil.which(name) for name in ("initdb", "postgres")]
    if None in programs:
        raise Unavailable("initdb and postgres are not on the PATH")
    # The server does not run as root; it may lend the account that its package makes.
    user = {"user": "postgres"} if os.geteuid() == 0 else {}
    place = Path(tempfile.mkdtemp(prefix="dedup-storage-postgres-"))
    try:
        secret = place / "password"
        secret.write_text(password)
        if user:
            try:
                shutil.chown(place, **user)
                shutil.chown(secret, **user)
            except LookupError as error:
                raise Unavailable("there is no account postgres, and the server does not run as root") from error
        data, port = place / "data", free_port()
        login = ["-U", "iceberg", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync"]
        made = subprocess.run(
            [str(programs[0]), "-D", str(data), *login],
            capture_output=True,
            text=True,
            check=False,
            cwd=place,
            **user,  # type: ignore[call-overload]
        )
        if made.returncode:
            raise Unavailable(f"initdb failed: {made.stderr.strip()[-300:]}")
        log = place / "server.log"
        command = [str(programs[1]), "-D", str(data), "-p", str(port), "-h", HOST, "-k", str(place), "-c", "fsync=off"]
        with running(command, log, cwd=place, **user) as process:

            def listening() -> bool:
                with socket.create_connection((HOST, port), timeout=1):
                    return True

            until(listening, process, "PostgreSQL", log)
            yield Postgres(f"postgresql://{HOST}:{port}/postgres", "iceberg", password)
    finally:
        shutil.rmtree(place, ignore_errors=True)
