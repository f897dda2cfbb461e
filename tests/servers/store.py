"""An S3 store for as long as a test needs it: moto's server, from an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

from tests.servers.processes import HOST, Unavailable, free_port, running, until

__all__ = ["LOGS", "ObjectStore", "object_store"]

ROOT = Path(__file__).resolve().parents[2]
REGION = "eu-north-1"
# A bucket that has keys of its own.
LOGS = "raw-logs"


@dataclass(frozen=True)
class ObjectStore:
    """An S3 store, and a pair of keys that it lets in.

    Attributes:
        endpoint: Its address.
        key, secret: Access key and its secret.
        token: The session token that goes with them; ``None`` for keys that last.
        logs: The same store with keys for the bucket ``LOGS`` alone; ``None`` where these are they.
    """

    endpoint: str
    key: str
    secret: str
    token: str | None
    logs: ObjectStore | None = None

    @property
    def properties(self) -> dict[str, str]:
        """The store as catalog properties, with its keys."""
        return {**self.place, **self.keys}

    @property
    def place(self) -> dict[str, str]:
        """Where the store is, as catalog properties."""
        return {
            "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
            "s3.endpoint": self.endpoint,
            "s3.path-style-access": "true",
            "s3.region": REGION,
        }

    @property
    def keys(self) -> dict[str, str]:
        """The keys as catalog properties."""
        token = {"s3.session-token": self.token} if self.token else {}
        return {"s3.access-key-id": self.key, "s3.secret-access-key": self.secret, **token}

    @property
    def files(self) -> pafs.S3FileSystem:
        """The store as a file system."""
        return pafs.S3FileSystem(
            endpoint_override=self.endpoint,
            access_key=self.key,
            secret_key=self.secret,
            session_token=self.token,
            region=REGION,
            allow_bucket_creation=True,
        )


def _interpreter() -> str:
    """The interpreter of the environment that ``make servers`` makes, or of ``MOTO_PYTHON``."""
    named = os.environ.get("MOTO_PYTHON")
    python = named or str(ROOT / ".venv-servers" / "bin" / "python")
    try:
        found = subprocess.run([python, "-c", "import moto.moto_server"], capture_output=True, text=True, check=False)
    except OSError:
        raise Unavailable("there is no environment with moto's server: run make servers") from None
    if found.returncode:
        raise Unavailable(f"{python} has no moto server: {found.stderr.strip()[-200:]}")
    return python


@contextmanager
def object_store(*, token: str | None = "a+session/token=") -> Iterator[ObjectStore]:  # noqa: S107
    """An empty S3 store.

    Args:
        token: The session token that it wants with the keys; ``None`` for keys that last.

    Raises:
        Unavailable: moto is not installed, or did not start.
    """
    python, port = _interpreter(), free_port()
    endpoint = f"http://{HOST}:{port}"
    logs = ObjectStore(endpoint, "the-key-of-logs", "another/secret", "another token")
    made = ObjectStore(endpoint, "the-key", "the/secret+of=it", token, logs)
    keys = [[made.key, made.token, None], [logs.key, logs.token, LOGS]]
    with tempfile.TemporaryDirectory(prefix="dedup-storage-store-") as folder:
        log = Path(folder) / "store.log"
        command = [python, str(Path(__file__).with_name("store_process.py")), str(port)]
        with running([*command, json.dumps(keys)], log, cwd=folder) as process:

            def answering() -> bool:
                try:
                    urllib.request.urlopen(made.endpoint, timeout=5).close()  # noqa: S310
                except urllib.error.HTTPError:
                    # It does not let in a stranger.
                    return True
                return True

            until(answering, process, "the S3 store", log)
            yield made
