"""A receiver of OpenLineage events on this machine: takes what is posted, or answers as a broken one would."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

__all__ = ["Receiver", "settled"]


class Receiver:
    """Collects events; a context manager.

    Attributes:
        events: What was posted and taken, in order.
        headers: Of every request.
        status: What it answers; 200 takes the event.
    """

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[str] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                receiver.headers.append(dict(self.headers))
                receiver.bodies.append(body)
                if receiver.status == 200 and self.path == "/api/v1/lineage":
                    receiver.events.append(json.loads(body))
                self.send_response(receiver.status if self.path == "/api/v1/lineage" else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def transport(self) -> dict[str, Any]:
        """The setting that sends events here."""
        return {"type": "http", "url": self.url}

    def states(self, job: str | None = None) -> list[str]:
        """What happened, in order; to one job."""
        return [e["eventType"] for e in self.events if job is None or e["job"]["name"] == job]

    def last(self, job: str) -> dict[str, Any]:
        """The newest event of a job."""
        return [e for e in self.events if e["job"]["name"] == job][-1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def settled(events: list[dict[str, Any]]) -> bool:
    """Whether each run of events has one START, first, and one end, last."""
    runs = defaultdict(list)
    for event in events:
        runs[event["run"]["runId"]].append(event["eventType"])
    ends = {"COMPLETE", "FAIL", "ABORT"}
    return all(
        states[0] == "START" and states.count("START") == 1 and [s for s in states if s in ends] == states[-1:]
        for states in runs.values()
    )
