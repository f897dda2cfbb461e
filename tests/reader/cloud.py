"""A REST catalog that vends keys and a store that refuses old ones, both on this machine, over tables in a folder."""

from __future__ import annotations

import io
import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pyarrow.fs import AwsDefaultS3RetryStrategy
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO, PyArrowLocalFileSystem

from dedup_storage.config import CatalogSettings, CatalogType, Settings
from tests.reader.lake import Lake

BUCKET = "logs"
_ENDPOINTS = [
    f"GET /v1/{{prefix}}/{path}"
    for path in (
        "namespaces",
        "namespaces/{namespace}/tables",
        "namespaces/{namespace}/tables/{table}",
        "namespaces/{namespace}/tables/{table}/credentials",
    )
]
_KEY = re.compile(r"Credential=([^/]+)/")


class FolderIO(PyArrowFileIO):
    """Writes the files of ``s3://logs`` into a folder, under the addresses that they have in the store."""

    def new_input(self, location: str) -> PyArrowFile:
        return self._place(location)

    def new_output(self, location: str) -> PyArrowFile:
        return self._place(location)

    def _place(self, location: str) -> PyArrowFile:
        path = location.replace(f"s3://{BUCKET}", self.properties["folder"], 1)
        return PyArrowFile(location, path, PyArrowLocalFileSystem())


class NoRetries(AwsDefaultS3RetryStrategy):
    """Lets the store's failures reach the reader, which the client of S3 would otherwise try again by itself."""

    def __init__(self) -> None:
        super().__init__(max_attempts=0)


def writing_settings(folder: Path) -> Settings:
    """Settings of a catalog that writes tables into a folder as the store will have them."""
    properties = {"warehouse": f"s3://{BUCKET}", "py-io-impl": f"{__name__}.FolderIO", "folder": str(folder)}
    return Settings(warehouse=str(folder), catalog=CatalogSettings(properties=properties))


@dataclass
class Keys:
    """Keys that are handed out, each for one folder and a time.

    Attributes:
        seconds: How long each is good.
        uses: For how many requests it is.
        told: Whether the catalog says when it ends.
        work: Whether the store accepts any.
        given: Folder of each, when it ends, and what is left of its uses.
        refused: Requests that were refused.
    """

    seconds: float = math.inf
    uses: float = math.inf
    told: bool = True
    work: bool = True
    given: dict[str, list[Any]] = field(default_factory=dict)
    refused: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def give(self, folder: str) -> dict[str, str]:
        """A new one, as the catalog hands it out."""
        with self._lock:
            name, ends = f"KEY{len(self.given)}", time.time() + self.seconds
            self.given[name] = [folder, ends, self.uses]
        end = {"s3.session-token-expires-at-ms": f"{ends * 1000:.0f}"} if self.told and ends < math.inf else {}
        return {"s3.access-key-id": name, "s3.secret-access-key": "s", "s3.session-token": f"token of {name}", **end}

    def limit(self, uses: int) -> None:
        """From now on each, those given out too, is good for so many requests."""
        with self._lock:
            self.uses = uses
            for given in self.given.values():
                given[2] = uses

    def end(self) -> None:
        """Those given out are not good any more."""
        with self._lock:
            for given in self.given.values():
                given[1] = 0.0

    def accept(self, name: str, token: str, place: str) -> bool:
        """Whether a request with a key may be answered."""
        with self._lock:
            folder, ends, uses = self.given.get(name, ("?", 0, 0))
            good = token == f"token of {name}" and place.startswith(folder) and time.time() < ends and uses > 0
            if good and self.work:
                self.given[name][2] -= 1
                return True
            self.refused += 1
            return False


class _Server(ThreadingHTTPServer):
    """Counts requests by what they ask for, and fails each so manieth."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler], folder: Path, keys: Keys) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.folder, self.keys = folder, keys
        self.every: int | None = None
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fails(self, what: str) -> bool:
        """Count a request; whether it is one of those that fail."""
        with self._lock:
            self.counts[what] += 1
            return self.every is not None and self.counts.total() % self.every == 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Any

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _StoreHandler(_Handler):
    """HEAD and ranged GET of objects, and uploads of one part."""

    def _opened(self) -> Path | None:
        """The object's place in the folder; ``None`` where the request is answered already."""
        place = unquote(urlsplit(self.path).path).lstrip("/")
        if self.server.fails(f"{self.command} {'data' if place.endswith('.parquet') else 'metadata'}"):
            return self._error(500, "InternalError")
        key = _KEY.search(self.headers.get("Authorization", ""))
        token = self.headers.get("X-Amz-Security-Token", "")
        if key is None or not self.server.keys.accept(key.group(1), token, place):
            # As S3 says it of a token that has ended, and of anything else.
            ended = key is not None and self.server.keys.work
            return self._error(*((400, "ExpiredToken") if ended else (403, "AccessDenied")))
        return Path(self.server.folder, place.removeprefix(f"{BUCKET}/"))

    def do_POST(self) -> None:
        """Begin or end an upload."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = "InitiateMultipartUploadResult" if self.path.endswith("uploads") else "CompleteMultipartUploadResult"
        if self._opened() is not None:
            told = f"<{name}><UploadId>1</UploadId><ETag>1</ETag></{name}>"
            self.answer(200, told.encode(), Content_Type="application/xml")

    def do_PUT(self) -> None:
        """The one part of an upload."""
        length = self.headers.get("Content-Length")
        content = _unchunked(self.rfile) if length is None else self.rfile.read(int(length))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            content = _unchunked(io.BytesIO(content))
        file = self._opened()
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            self.answer(200, ETag='"1"')

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        file = self._opened()
        if file is None:
            return None
        if not file.is_file():
            return self._error(404, "NoSuchKey")
        content, asked = file.read_bytes(), self.headers.get("Range")
        about = {"ETag": f'"{file.stat().st_mtime_ns:x}"', "Last_Modified": "Wed, 21 Oct 2026 07:28:00 GMT"}
        if self.command == "HEAD":
            return self.answer(200, Content_Length=str(len(content)), **about)
        if asked is None:
            return self.answer(200, content, **about)
        first, last = asked.removeprefix("bytes=").split("-")
        part = content[int(first) : int(last) + 1 if last else None]
        return self.answer(206, part, Content_Range=f"bytes {first}-{last}/{len(content)}", **about)

    def _error(self, status: int, code: str) -> None:
        self.answer(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())


def _unchunked(stream: Any) -> bytes:
    """A body that comes in chunks, each behind its length."""
    parts = []
    while size := int(stream.readline().split(b";")[0] or b"0", 16):
        parts.append(stream.read(size))
        stream.readline()
    while stream.readline().strip():
        pass
    return b"".join(parts)


class _CatalogHandler(_Handler):
    """What the reader asks of a REST catalog."""

    def do_GET(self) -> None:
        server = self.server
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")[1:]]
        what = parts[-1] if parts[-1] in ("config", "namespaces", "tables", "credentials") else "table"
        if server.fails(what):
            return self._error(503, "ServiceUnavailable")
        if what == "config":
            return self._json({"defaults": {}, "overrides": {}, "endpoints": server.endpoints})
        if server.closed:
            return self._error(401, "NotAuthorized")
        if what == "namespaces":
            return self._json({"namespaces": sorted({[name] for name, _ in server.tables})})
        if what == "tables":
            found = [{"namespace": [n], "name": t} for n, t in server.tables if n == parts[1]]
            return self._json({"identifiers": found})
        place = server.tables.get((parts[1], parts[3]))
        if place is None:
            return self._error(404, "NoSuchTable")
        metadata = json.loads((server.folder / place.removeprefix(f"s3://{BUCKET}/")).read_text())
        folder = metadata["location"].removeprefix("s3://")
        keys = server.keys.give(folder)
        vended = [{"prefix": f"s3://{folder}", "config": keys}]
        if what == "credentials":
            return self._json({"storage-credentials": vended})
        config = {"s3.endpoint": server.store, "s3.region": "us-east-1", "s3.path-style-access": "true"}
        if "credentials" not in server.endpoints[-1]:
            return self._json({"metadata-location": place, "metadata": metadata, "config": {**config, **keys}})
        return self._json(
            {"metadata-location": place, "metadata": metadata, "config": config, "storage-credentials": vended}
        )

    def _json(self, values: Mapping[str, Any]) -> None:
        self.answer(200, json.dumps(values).encode(), Content_Type="application/json")

    def _error(self, status: int, kind: str) -> None:
        error = {"message": "no", "type": f"{kind}Exception", "code": status}
        self.answer(status, json.dumps({"error": error}).encode(), Content_Type="application/json")


@dataclass
class Cloud:
    """Both servers.

    Attributes:
        keys: What the catalog hands out and the store accepts.
        catalog, store: The servers.
    """

    keys: Keys
    catalog: Any
    store: Any

    def settings(self, **properties: str) -> Settings:
        """Settings of a reader that has nothing but the catalog's address."""
        return Settings(
            warehouse=f"s3://{BUCKET}",
            catalog=CatalogSettings(type=CatalogType.REST, uri=self.catalog.address, properties=properties),
        )

    def counted(self) -> tuple[Counter[str], Counter[str]]:
        """Requests to catalog and store since the last time."""
        found = self.catalog.counts.copy(), self.store.counts.copy()
        self.catalog.counts.clear()
        self.store.counts.clear()
        return found


@contextmanager
def cloud(folder: Path, keys: Keys | None = None, *, endpoint: bool = True) -> Iterator[Cloud]:
    """Serve the tables of a folder.

    Args:
        folder: Where ``writing_settings`` wrote them.
        keys: What is handed out; ``None`` for keys without an end.
        endpoint: Whether the catalog has one for credentials, or gives them with the table alone.
    """
    keys = keys if keys is not None else Keys()
    store, catalog = _Server(_StoreHandler, folder, keys), _Server(_CatalogHandler, folder, keys)
    lake: Any = Lake(writing_settings(folder)).catalog
    found: Any = catalog
    found.tables = {
        tuple(table): lake.load_table(table).metadata_location
        for namespace in lake.list_namespaces()
        for table in lake.list_tables(namespace)
    }
    found.store, found.closed, found.endpoints = store.address, False, _ENDPOINTS[: 4 if endpoint else 3]
    threads = [threading.Thread(target=s.serve_forever, args=(0.05,), daemon=True) for s in (store, catalog)]
    for thread in threads:
        thread.start()
    try:
        yield Cloud(keys, catalog, store)
    finally:
        for server, thread in zip((store, catalog), threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
