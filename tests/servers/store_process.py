"""An S3 store in memory: moto's server behind a check of keys. Run by the interpreter that has moto.

Arguments: the port, and the keys that are let in as JSON, ``[[access key, session token or null, bucket or null], …]``;
keys with a bucket are let into that one alone. Signatures are not checked, as moto does not.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # type: ignore[import-not-found]
from werkzeug.serving import WSGIRequestHandler, run_simple  # type: ignore[import-not-found]

_KEY = re.compile(r"Credential=([^/,\s]+)/")
_REFUSED = b"<?xml version='1.0'?><Error><Code>InvalidAccessKeyId</Code><Message>not these keys</Message></Error>"


class Guarded:
    """The store for those who have its keys."""

    def __init__(self, keys: list[list[str | None]]) -> None:
        self._keys = {(key, token): bucket for key, token, bucket in keys}
        self._store = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        found = _KEY.search(environ.get("HTTP_AUTHORIZATION", ""))
        shown = (found.group(1) if found else "", environ.get("HTTP_X_AMZ_SECURITY_TOKEN"))
        bucket = environ["PATH_INFO"].split("/")[1]
        if shown not in self._keys or self._keys[shown] not in (None, bucket):
            # What was sent is read, or the client would see a broken connection instead of the answer.
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [_REFUSED]
        answer: Iterable[bytes] = self._store(environ, start_response)
        return answer


class Quiet(WSGIRequestHandler):  # type: ignore[misc]
    """Connections stay open, and requests are not logged."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing."""


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), Guarded(json.loads(sys.argv[2])), threaded=True, request_handler=Quiet)
