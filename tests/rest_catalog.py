"""A REST catalog in this process, as far as tables are made, changed, renamed and dropped; it may fall short.

It writes tables' metadata itself, as servers do, and counts what it is asked. ``with RestCatalog(folder) as catalog:``
listens on a port of its own.
"""

from __future__ import annotations

import copy
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["RestCatalog"]

_ENDPOINTS = [
    "GET /v1/{prefix}/namespaces", "POST /v1/{prefix}/namespaces", "GET /v1/{prefix}/namespaces/{namespace}",
    "HEAD /v1/{prefix}/namespaces/{namespace}", "DELETE /v1/{prefix}/namespaces/{namespace}",
    "POST /v1/{prefix}/namespaces/{namespace}/properties",
    "GET /v1/{prefix}/namespaces/{namespace}/tables", "POST /v1/{prefix}/namespaces/{namespace}/tables",
    "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}", "HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "DELETE /v1/{prefix}/namespaces/{namespace}/tables/{table}", "POST /v1/{prefix}/tables/rename",
]  # fmt: skip
_TRANSACTIONS = "POST /v1/{prefix}/transactions/commit"
Metadata = dict[str, Any]


class _RefusedError(Exception):
    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


@dataclass
class RestCatalog:
    """The server and what it holds.

    Attributes:
        folder: Where tables lie.
        loses_tags: Tags are taken and not kept.
        refuses_tags: A commit with a tag is refused.
        newest_only: Of a table only main's newest snapshot is kept.
        careless: What a commit rests on is not looked at.
        keeps_tables: Nothing can be dropped.
        transactions: Says that it commits several tables at once, and does.
        lossy: Of such a commit it leaves out the second change of a table, and says that it made it.
        loses: A table whose change it leaves out of the next such commit, and says that it made it.
        refuses_transactions: It says so, and refuses to.
        transaction_error: Status and class of the answer to every such commit; none is made.
        refuses_tables: Nothing can be created.
        stale: Status and class of the answer to a commit whose snapshot another one came before.
        unanswered: So many commits, of one table or several, are made and answered as if nobody knew.
        overloaded: So many commits are not made, and answered the same.
        before_commit: Called with the tables of each commit before anybody looks at it.
        config: Handed out with each table, such as keys of the store.
        tables: (namespace, name) -> metadata.
        asked: What was asked -> how often: ``load``, ``commit``, ``transaction``, ``list``, ….
        mains: Main's snapshot of every table after each commit, in order.
    """

    folder: Path
    loses_tags: bool = False
    refuses_tags: bool = False
    newest_only: bool = False
    careless: bool = False
    keeps_tables: bool = False
    transactions: bool = False
    lossy: bool = False
    loses: str | None = None
    refuses_transactions: bool = False
    transaction_error: tuple[int, str] | None = None
    refuses_tables: bool = False
    stale: tuple[int, str] = (409, "CommitFailedException")
    unanswered: int = 0
    overloaded: int = 0
    before_commit: Callable[[list[str]], None] | None = None
    config: Mapping[str, str] = field(default_factory=dict)
    tables: dict[tuple[str, str], Metadata] = field(default_factory=dict)
    places: dict[tuple[str, str], str] = field(default_factory=dict)
    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    mains: list[dict[tuple[str, str], int | None]] = field(default_factory=list)

    def __enter__(self) -> RestCatalog:
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, method: str, path: list[str], body: dict[str, Any]) -> dict[str, Any] | None:
        """What is answered to a request; the path is what follows ``/v1/``."""
        if self.before_commit is not None and method == "POST":
            match path:
                case "transactions", "commit":
                    self.before_commit([change["identifier"]["name"] for change in body["table-changes"]])
                case "namespaces", _, "tables", table:
                    self.before_commit([table])
        with self._lock:
            match (method, *path):
                case ("GET", "config"):
                    self.asked["config"] += 1
                    offered = [*_ENDPOINTS, *([_TRANSACTIONS] if self.transactions else [])]
                    return {"defaults": {}, "overrides": {}, "endpoints": offered}
                case (_, "namespaces", *rest) if len(rest) < 2:
                    self.asked["namespace"] += 1
                    return self._namespace(method, *rest, body=body)
                case ("POST", "namespaces", name, "properties"):
                    self.namespaces[name].update(body.get("updates") or {})
                    for key in body.get("removals") or ():
                        self.namespaces[name].pop(key, None)
                    return {"updated": [], "removed": [], "missing": []}
                case ("GET", "namespaces", name, "tables"):
                    self.asked["list"] += 1
                    self._need_namespace(name)
                    named = [key for key in self.tables if key[0] == name]
                    return {"identifiers": [{"namespace": [space], "name": table} for space, table in named]}
                case ("POST", "namespaces", name, "tables"):
                    self.asked["create"] += 1
                    return self._create(name, body)
                case ("POST", "namespaces", name, "tables", table):
                    self.asked["commit"] += 1
                    self._commit([((name, table), body)])
                    return self._loaded((name, table))
                case ("POST", "transactions", "commit"):
                    self.asked["transaction"] += 1
                    if self.refuses_transactions:
                        raise _RefusedError(400, "BadRequestException", "one table at a time")
                    if self.transaction_error is not None:
                        raise _RefusedError(*self.transaction_error, "not this time")
                    lost, self.loses = self.loses, None
                    changes = ((c["identifier"], c) for c in body["table-changes"] if c["identifier"]["name"] != lost)
                    self._commit([((named["namespace"][0], named["name"]), c) for named, c in changes])
                    return None
                case (_, "namespaces", name, "tables", table):
                    return self._table(method, (name, table))
                case ("POST", "tables", "rename"):
                    old, new = ((b["namespace"][0], b["name"]) for b in (body["source"], body["destination"]))
                    self.tables[new], self.places[new] = self.tables.pop(old), self.places.pop(old)
                    return None
            raise _RefusedError(404, "NotFound", "no such endpoint: " + "/".join([method, *path]))

    def _need_namespace(self, name: str) -> None:
        if name not in self.namespaces:
            raise _RefusedError(404, "NoSuchNamespaceException", f"Namespace does not exist: {name}")

    def _namespace(self, method: str, *names: str, body: dict[str, Any]) -> dict[str, Any] | None:
        if not names:
            if method == "GET":
                return {"namespaces": [[name] for name in self.namespaces]}
            (name,) = body["namespace"]
            if name in self.namespaces:
                raise _RefusedError(409, "AlreadyExistsException", f"Namespace already exists: {name}")
            self.namespaces[name] = body.get("properties") or {}
            return {"namespace": [name], "properties": self.namespaces[name]}
        (name,) = names
        self._need_namespace(name)
        if method == "DELETE":
            if any(space == name for space, _ in self.tables):
                raise _RefusedError(409, "NamespaceNotEmptyException", f"Namespace is not empty: {name}")
            del self.namespaces[name]
            return None
        return {"namespace": [name], "properties": self.namespaces[name]}

    def _table(self, method: str, key: tuple[str, str]) -> dict[str, Any] | None:
        if key not in self.tables:
            raise _RefusedError(404, "NoSuchTableException", f"Table does not exist: {'.'.join(key)}")
        if method == "DELETE":
            self.asked["drop"] += 1
            if self.keeps_tables:
                raise _RefusedError(403, "ForbiddenException", "you may not drop tables")
            del self.tables[key], self.places[key]
            return None
        self.asked["load"] += 1
        return self._loaded(key)

    def _loaded(self, key: tuple[str, str]) -> dict[str, Any]:
        found = {"metadata-location": self.places[key], "metadata": self.tables[key], "config": dict(self.config)}
        return copy.deepcopy(found)

    def _create(self, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        self._need_namespace(namespace)
        if self.refuses_tables:
            raise _RefusedError(403, "ForbiddenException", "you may not create tables")
        key = (namespace, body["name"])
        if key in self.tables:
            raise _RefusedError(409, "AlreadyExistsException", f"Table already exists: {'.'.join(key)}")
        location = body.get("location") or str(self.folder / namespace / body["name"])
        self.tables[key] = _new(body, location)
        self._store(key)
        return self._loaded(key)

    def _commit(self, bodies: list[tuple[tuple[str, str], dict[str, Any]]]) -> None:
        """Commit to some tables at once, or to none of them."""
        if self.overloaded:
            self.overloaded -= 1
            raise _RefusedError(500, "InternalServerError", "too much to do")
        changed: dict[tuple[str, str], Metadata] = {}
        for key, body in bodies:
            if not (self.lossy and key in changed):
                changed[key] = self._changed(key, body, changed.get(key))
        self.tables.update(changed)
        for key in changed:
            self._store(key)
        self.mains.append({key: metadata.get("current-snapshot-id") for key, metadata in self.tables.items()})
        if self.unanswered:
            self.unanswered -= 1
            raise _RefusedError(504, "GatewayTimeout", "nobody knows")

    def _changed(self, key: tuple[str, str], body: dict[str, Any], before: Metadata | None) -> Metadata:
        if key not in self.tables:
            raise _RefusedError(404, "NoSuchTableException", f"Table does not exist: {'.'.join(key)}")
        changed = copy.deepcopy(before or self.tables[key])
        if not self.careless:
            for need in body["requirements"]:
                _require(changed, need)
        added = {"schema": -1, "spec": -1, "order": -1}
        for update in body["updates"]:
            if update["action"] == "set-snapshot-ref" and update["ref-name"] != "main":
                if self.refuses_tags:
                    raise _RefusedError(400, "BadRequestException", "this catalog has no tags")
                if self.loses_tags:
                    continue
            if update["action"] == "add-snapshot" and not self.careless:
                _require_newer(changed, update["snapshot"], self.stale)
            _apply(changed, update, added)
        if self.newest_only:
            newest = changed.get("current-snapshot-id")
            changed["snapshots"] = [s for s in changed["snapshots"] if s["snapshot-id"] == newest]
            changed["refs"] = {name: ref for name, ref in changed["refs"].items() if ref["snapshot-id"] == newest}
        return changed

    def _store(self, key: tuple[str, str]) -> None:
        metadata = self.tables[key]
        metadata["last-updated-ms"] = time.time_ns() // 1_000_000
        place = Path(metadata["location"], "metadata", f"{len(metadata['snapshots']):05}-{uuid.uuid4()}.metadata.json")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(metadata))
        self.places[key] = str(place)


def _renumbered(kind: Any, ids: dict[int, int]) -> Any:
    """A type with ids of its own, as a server gives them; those of a struct come before those inside its fields."""
    if not isinstance(kind, dict):
        return kind
    kind = dict(kind)
    if kind["type"] == "struct":
        for old in kind["fields"]:
            ids[old["id"]] = len(ids) + 1
        kind["fields"] = [{**f, "id": ids[f["id"]], "type": _renumbered(f["type"], ids)} for f in kind["fields"]]
        return kind
    for part in ("element", "key", "value"):
        if part in kind:
            ids[-len(ids) - 1] = len(ids) + 1
            kind[f"{part}-id"] = len(ids)
            kind[part] = _renumbered(kind[part], ids)
    return kind


def _new(body: dict[str, Any], location: str) -> Metadata:
    ids: dict[int, int] = {}
    schema = {**_renumbered(body["schema"], ids), "schema-id": 0}
    parts = (body.get("partition-spec") or {}).get("fields", [])
    spec = [{**f, "source-id": ids[f["source-id"]], "field-id": 1000 + i} for i, f in enumerate(parts)]
    sort = (body.get("write-order") or {}).get("fields", [])
    properties = dict(body.get("properties") or {})
    version = int(properties.pop("format-version", 2))
    return {
        "format-version": version, "table-uuid": str(uuid.uuid4()), "location": location, "last-sequence-number": 0,
        "last-column-id": len(ids), "schemas": [schema], "current-schema-id": 0,
        "partition-specs": [{"spec-id": 0, "fields": spec}], "default-spec-id": 0, "last-partition-id": 999 + len(spec),
        "sort-orders": [{"order-id": 0, "fields": []}] + (
            [{"order-id": 1, "fields": [{**f, "source-id": ids[f["source-id"]]} for f in sort]}] if sort else []
        ),
        "default-sort-order-id": 1 if sort else 0, "properties": properties, "refs": {}, "snapshots": [],
        "snapshot-log": [], "metadata-log": [], **({"next-row-id": 0} if version > 2 else {}),
    }  # fmt: skip


def _require(metadata: Metadata, need: dict[str, Any]) -> None:
    kind = need["type"]
    held = True
    if kind == "assert-table-uuid":
        held = need["uuid"] == metadata["table-uuid"]
    elif kind == "assert-ref-snapshot-id":
        ref = metadata["refs"].get(need["ref"])
        held = (ref and ref["snapshot-id"]) == need.get("snapshot-id")
    elif kind == "assert-current-schema-id":
        held = need["current-schema-id"] == metadata["current-schema-id"]
    elif kind == "assert-last-assigned-field-id":
        held = need["last-assigned-field-id"] == metadata["last-column-id"]
    if not held:
        raise _RefusedError(409, "CommitFailedException", f"Requirement failed: {kind}")


def _require_newer(metadata: Metadata, snapshot: dict[str, Any], stale: tuple[int, str]) -> None:
    """Refuse a snapshot that was numbered before another one was added, as Iceberg's ``TableMetadata`` does."""
    last, given = metadata["last-sequence-number"], snapshot["sequence-number"]
    if given <= last and snapshot.get("parent-snapshot-id") is not None:
        told = f"Cannot add snapshot with sequence number {given} older than last sequence number {last}"
        raise _RefusedError(*stale, told)
    if metadata["format-version"] > 2 and snapshot["first-row-id"] < metadata["next-row-id"]:
        raise _RefusedError(*stale, "Cannot add a snapshot, first-row-id is behind table next-row-id")


def _apply(metadata: Metadata, update: dict[str, Any], added: dict[str, int]) -> None:
    match update["action"]:
        case "add-schema":
            added["schema"] = len(metadata["schemas"])
            metadata["schemas"].append({**update["schema"], "schema-id": added["schema"]})
            metadata["last-column-id"] = max(metadata["last-column-id"], *_ids(update["schema"]))
        case "set-current-schema":
            metadata["current-schema-id"] = _or_added(update["schema-id"], added["schema"])
        case "add-spec":
            added["spec"] = len(metadata["partition-specs"])
            metadata["partition-specs"].append({**update["spec"], "spec-id": added["spec"]})
            ids = (field["field-id"] for field in update["spec"]["fields"])
            metadata["last-partition-id"] = max(metadata["last-partition-id"], *ids)
        case "set-default-spec":
            metadata["default-spec-id"] = _or_added(update["spec-id"], added["spec"])
        case "add-sort-order":
            added["order"] = len(metadata["sort-orders"])
            metadata["sort-orders"].append({**update["sort-order"], "order-id": added["order"]})
        case "set-default-sort-order":
            metadata["default-sort-order-id"] = _or_added(update["sort-order-id"], added["order"])
        case "set-properties":
            metadata["properties"].update(update["updates"])
        case "remove-properties":
            for key in update["removals"]:
                metadata["properties"].pop(key, None)
        case "add-snapshot":
            snapshot = update["snapshot"]
            metadata["snapshots"].append(snapshot)
            metadata["last-sequence-number"] = max(metadata["last-sequence-number"], snapshot["sequence-number"])
            if "next-row-id" in metadata:
                metadata["next-row-id"] += snapshot.get("added-rows") or 0
        case "set-snapshot-ref":
            kept = {"action", "ref-name"}
            metadata["refs"][update["ref-name"]] = {k: v for k, v in update.items() if k not in kept and v is not None}
            if update["ref-name"] == "main":
                metadata["current-snapshot-id"] = update["snapshot-id"]
                moment = {"snapshot-id": update["snapshot-id"], "timestamp-ms": time.time_ns() // 1_000_000}
                metadata["snapshot-log"].append(moment)
        case "remove-snapshot-ref":
            metadata["refs"].pop(update["ref-name"], None)
        case "remove-snapshots":
            gone = set(update["snapshot-ids"])
            metadata["snapshots"] = [s for s in metadata["snapshots"] if s["snapshot-id"] not in gone]
        case "assign-uuid" | "upgrade-format-version" | "set-location" | "set-statistics" | "remove-statistics":
            pass
        case other:
            raise _RefusedError(400, "BadRequestException", f"not known: {other}")


def _or_added(given: int, added: int) -> int:
    return added if given == -1 else given


def _ids(kind: Any) -> list[int]:
    if isinstance(kind, list):
        return [found for part in kind for found in _ids(part)]
    if not isinstance(kind, dict):
        return [0]
    own = [value for key, value in kind.items() if key in ("id", "element-id", "key-id", "value-id")]
    return [*own, *(found for value in kind.values() for found in _ids(value))]


def _handler(catalog: RestCatalog) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # An answer in one packet: its second one would wait until the client acknowledges the first, 40 ms each time.
        wbufsize = -1

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            path = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")][1:]
            try:
                answer, status = catalog.answer(self.command, path, body), 200
            except _RefusedError as error:
                told = {"message": str(error), "type": error.kind, "code": error.status}
                answer, status = {"error": told}, error.status
            text = b"" if answer is None or self.command == "HEAD" else json.dumps(answer).encode()
            self.send_response(204 if answer is None else status)
            self.send_header("Content-Type", "application/json")
            if answer is not None:
                self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - the names that http.server calls

        def log_message(self, format: str, *given: object) -> None:
            """Say nothing."""

    return Handler
