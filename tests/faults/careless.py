"""A bucket that ignores a precondition, as some S3-compatible stores do: in memory, on loopback, for anybody."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class CarelessBucket:
    """A server with one bucket.

    Args:
        ignored: the header it overlooks; none if empty.
    """

    def __init__(self, ignored: str) -> None:
        self.ignored = ignored
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.url = "s3://bucket/runs"
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.bucket = self  # type: ignore[attr-defined]
        self.env = {
            "AWS_ACCESS_KEY_ID": "anybody",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_DEFAULT_REGION": "us-east-1",
            "CKPTRUN_S3_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def put(self, key: str, data: bytes, none_match: str | None, match: str | None) -> str | None:
        """Store an object and return its ETag; None if a precondition fails that it does not overlook."""
        with self.lock:
            there = self.objects.get(key)
            if none_match and self.ignored != "If-None-Match" and there is not None:
                return None
            if match and self.ignored != "If-Match" and (there is None or match != etag(there)):
                return None
            self.objects[key] = data
            return etag(data)


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def bucket(self) -> CarelessBucket:
        bucket: CarelessBucket = self.server.bucket  # type: ignore[attr-defined]
        return bucket

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/bucket").removeprefix("/")

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = self.bucket.put(
            self.key, data, self.headers.get("If-None-Match"), self.headers.get("If-Match")
        )
        if found is None:
            self.answer(412, error("PreconditionFailed"))
        else:
            self.answer(200, b"", {"ETag": found})

    def do_GET(self) -> None:
        if not self.key:
            self.answer(200, self.listing())
            return
        data = self.bucket.objects.get(self.key)
        if data is None:
            self.answer(404, error("NoSuchKey"))
            return
        span = self.headers.get("Range", "")
        headers = {"ETag": etag(data)}
        if not span:
            self.answer(200, data, headers)
            return
        first, _, last = span.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last), len(data) - 1)
        headers["Content-Range"] = f"bytes {begin}-{end}/{len(data)}"
        self.answer(206, data[begin : end + 1], headers)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.bucket.objects.pop(self.key, None)
        self.answer(204, b"")

    def listing(self) -> bytes:
        query = parse_qs(urlsplit(self.path).query)
        prefix = query.get("prefix", [""])[0]
        keys = sorted(key for key in self.bucket.objects if key.startswith(prefix))
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.bucket.objects[key])}</Size></Contents>"
            for key in keys
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode()

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
