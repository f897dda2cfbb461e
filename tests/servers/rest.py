"""Iceberg's own REST catalog server for as long as a test needs it, behind a guard that wants OAuth's token."""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

from tests.servers.jars import class_path, java
from tests.servers.processes import HOST, QUICK, free_port, running, until
from tests.servers.store import ObjectStore

__all__ = ["BUCKET", "RestCatalog", "rest_catalog"]

# Where the catalog keeps its tables, and what it calls that.
BUCKET = "rest-catalog"
_VERSION = "1.11.0"
_JARS = (
    f"org.apache.iceberg:iceberg-open-api:{_VERSION}:test-fixtures",
    f"org.apache.iceberg:iceberg-core:{_VERSION}",
    f"org.apache.iceberg:iceberg-core:{_VERSION}:tests",
    f"org.apache.iceberg:iceberg-aws:{_VERSION}",
    f"org.apache.iceberg:iceberg-aws-bundle:{_VERSION}",
    "org.eclipse.jetty:jetty-server:12.1.4",
    "org.eclipse.jetty.ee10:jetty-ee10-servlet:12.1.4",
    "org.eclipse.jetty.compression:jetty-compression-server:12.1.4",
    "org.eclipse.jetty.compression:jetty-compression-gzip:12.1.4",
    "org.xerial:sqlite-jdbc:3.50.3.0",
    "org.slf4j:slf4j-simple:2.0.16",
    "org.apache.hadoop:hadoop-client-api:3.4.1",
    "org.apache.hadoop:hadoop-client-runtime:3.4.1",
)


@dataclass(frozen=True)
class RestCatalog:
    """A REST catalog that hands out the keys of its store with each table.

    Attributes:
        uri: Its address, as ``catalog.uri`` names it.
        credential: The client's id and secret for OAuth, as ``catalog.credential`` has them.
        warehouse: What it calls the place of its tables: a name.
        properties: Where its store is, which it does not hand out, and where tokens are, as catalog properties.
        requests: Method and path of each request that was let through, in order.
    """

    uri: str
    credential: str
    warehouse: str
    properties: dict[str, str]
    requests: list[tuple[str, str]]

    @property
    def environ(self) -> dict[str, str]:
        """The catalog as environment variables of the toolkit."""
        return {
            "DEDUP_STORAGE_WAREHOUSE": self.warehouse,
            "DEDUP_STORAGE_CATALOG__TYPE": "rest",
            "DEDUP_STORAGE_CATALOG__URI": self.uri,
            "DEDUP_STORAGE_CATALOG__CREDENTIAL": self.credential,
            "DEDUP_STORAGE_CATALOG__PROPERTIES": json.dumps(self.properties),
        }


@contextmanager
def rest_catalog(store: ObjectStore) -> Iterator[RestCatalog]:
    """A REST catalog over a store.

    Raises:
        Unavailable: its jars cannot be had, or it did not start.
    """
    path, port = class_path(_JARS), free_port()
    store.files.create_dir(BUCKET)
    with tempfile.TemporaryDirectory(prefix="dedup-storage-rest-") as folder:
        settings = {
            "catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
            "uri": f"jdbc:sqlite:{folder}/catalog.db?journal_mode=WAL&busy_timeout=60000",
            "jdbc.schema-version": "V1",
            "warehouse": f"s3://{BUCKET}/tables",
            "include-credentials": "true",
            **store.properties,
            "client.region": store.properties["s3.region"],
            "rest.port": str(port),
        }
        environ = {**os.environ} | {_variable(k): v for k, v in settings.items()}
        log = Path(folder) / "server.log"
        command = [java(), *QUICK.split(), "-Xmx400m", "-cp", path, "org.apache.iceberg.rest.RESTCatalogServer"]
        with running(command, log, cwd=folder, env=environ) as process:

            def answering() -> bool:
                with urllib.request.urlopen(f"http://{HOST}:{port}/v1/config", timeout=5) as answer:
                    return bool(answer.status == 200)

            until(answering, process, "the REST catalog", log)
            with _guarded(port, store.place) as guarded:
                yield guarded


def _variable(key: str) -> str:
    """How the server's environment names a catalog property."""
    return "CATALOG_" + key.replace("-", "__").replace(".", "_").upper()


@contextmanager
def _guarded(port: int, place: dict[str, str]) -> Iterator[RestCatalog]:
    """The server behind a guard: the server gives a token to everybody and asks nobody for it."""
    identity, secret, token = "a client", secrets.token_urlsafe(), secrets.token_urlsafe()
    requests: list[tuple[str, str]] = []

    class Guard(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # An answer in one packet: its second one would wait until the client acknowledges the first, 40 ms each time.
        wbufsize = -1

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == "/v1/oauth/tokens":
                given = {key: values[0] for key, values in parse_qs(body.decode()).items()}
                known = (given.get("client_id"), given.get("client_secret")) == (identity, secret)
                told = {"access_token": token, "token_type": "bearer", "expires_in": 3600}
                self._send(200, told) if known else self._send(401, {"error": "invalid_client"})
            elif self.headers.get("Authorization") != f"Bearer {token}":
                error = {"message": "no token of this server", "type": "NotAuthorizedException", "code": 401}
                self._send(401, {"error": error})
            else:
                requests.append((self.command, self.path.partition("?")[0]))
                self._forward(body)

        do_GET = do_POST = do_DELETE = do_HEAD = do_PUT = _answer  # noqa: N815

        def _forward(self, body: bytes) -> None:
            there = HTTPConnection(HOST, port, timeout=120)
            own = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "accept-encoding", "connection")}
            there.request(self.command, self.path, body or None, own)
            answer = there.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else content)
            there.close()

        def _send(self, status: int, told: object) -> None:
            content = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Clients may be killed in the middle of a request."""
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)  # type: ignore[arg-type]

    with Server((HOST, 0), Guard) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            address = f"http://{HOST}:{server.server_port}"
            known = {**place, "oauth2-server-uri": f"{address}/v1/oauth/tokens"}
            yield RestCatalog(address, f"{identity}:{secret}", "training-logs", known, requests)
        finally:
            server.shutdown()
