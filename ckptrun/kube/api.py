"""A client of the Kubernetes API: JSON over HTTPS, six kinds of requests. Every error is an `ApiError`.

Over `urllib3`, which the stores have too. Used by `link`, `watching` and `failures`. It must not know what is written
where, and decides nothing about trying again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import urllib3

from ckptrun import __version__
from ckptrun.errors import PermissionMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptrun.kube.access import Access

CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
"""A server that has not answered by then is as good as none."""

WATCH_SECONDS = 290
"""How long a watch may last; the server ends it then, and the next one goes on."""
SILENCE_SECONDS = 30.0
"""How much longer it may take until a watch that the server has not ended is given up: the connection is dead."""

METHODS = {"get": "GET", "watch": "GET", "create": "POST", "update": "PUT", "patch": "PATCH"}
_STRATEGIC = "application/strategic-merge-patch+json"
_LINE_LIMIT = 8 << 20
"""Bytes of one event of a watch: an object may have 1.5 MiB."""

FORBIDDEN, NOT_FOUND, CONFLICT, GONE, INVALID = 403, 404, 409, 410, 422


class ApiError(Exception):
    """A request failed.

    Args:
        status: of HTTP; 0 if there was no answer.
        message: what the server, or the system, says.
        retry_after: seconds, if the server says.

    `verb` and `kind` tell of which request, as RBAC names it: ``patch``, ``pods/status``.
    """

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
        self.verb = ""
        self.kind = ""

    @property
    def passing(self) -> bool:
        """Whether another try may help: no answer, the token was just replaced, or the server is busy."""
        return self.status in {0, 401, 408, 429} or self.status >= 500


class Api:
    """The API server.

    Args:
        access: where, and who we are.
        seconds: to connect, and for an answer.
    """

    def __init__(
        self, access: Access, seconds: tuple[float, float] = (CONNECT_SECONDS, READ_SECONDS)
    ) -> None:
        self.url = access.url
        self._access = access
        self._timeout = urllib3.Timeout(connect=seconds[0], read=seconds[1])
        self._pool = urllib3.PoolManager(
            num_pools=1, maxsize=1, cert_reqs="CERT_REQUIRED", ca_certs=str(access.authority), retries=False
        )

    def call(self, verb: str, kind: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Do one request and return the object it answers with.

        Args:
            verb: one of RBAC's; a patch is a strategic merge patch.
            kind: the resource, as RBAC names it, for errors.
            path: with a leading slash.
            body: a JSON object.

        Raises:
            ApiError: it failed.
        """
        headers = {"Content-Type": _STRATEGIC if verb == "patch" else "application/json"} if body else {}
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        try:
            response = self._send(METHODS[verb], path, headers, data, self._timeout, preload=True)
            return _object(response.data)
        except ApiError as error:
            error.verb, error.kind = verb, kind
            raise

    def watch(self, kind: str, path: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield the events of a watch as they come, until the server ends it.

        Raises:
            ApiError: it cannot be had, or breaks off.
        """
        try:
            yield from self._watch(path, query)
        except ApiError as error:
            error.verb, error.kind = "watch", kind
            raise

    def _watch(self, path: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        words = urlencode({**query, "watch": "1", "timeoutSeconds": str(WATCH_SECONDS)}, quote_via=quote)
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=WATCH_SECONDS + SILENCE_SECONDS)
        response = self._send("GET", f"{path}?{words}", {}, None, timeout, preload=False)
        line = bytearray()
        try:
            for piece in response.stream(1 << 16):
                line += piece
                if len(line) > _LINE_LIMIT:
                    raise ApiError(0, "an event of a watch has no end")
                *whole, rest = bytes(line).split(b"\n")
                line[:] = rest
                yield from (_object(one) for one in whole if one.strip())
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, _words(error)) from error
        finally:
            response.close()

    def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        data: bytes | None,
        timeout: urllib3.Timeout,
        *,
        preload: bool,
    ) -> urllib3.BaseHTTPResponse:
        try:
            token = self._access.token()
        except PermissionMissingError as error:
            raise ApiError(0, str(error)) from error
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/json",
            "User-Agent": f"ckptrun/{__version__}",
            **headers,
        }
        try:
            response = self._pool.request(
                method, self.url + path, headers=headers, body=data, timeout=timeout,
                preload_content=preload, redirect=False,
            )  # fmt: skip
            if response.status >= 300:
                raise _refusal(response)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, _words(error)) from error
        return response


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ApiError(0, "the answer is no JSON object")
    return value


def _refusal(response: urllib3.BaseHTTPResponse) -> ApiError:
    try:
        message = str(_object(response.data).get("message") or "")
    except ApiError:
        message = ""
    finally:
        response.close()
    after = response.headers.get("Retry-After", "")
    seconds = float(after) if after.isascii() and after.isdecimal() else None
    return ApiError(response.status, message or f"HTTP status {response.status}", seconds)


def _words(error: Exception) -> str:
    """Return an exception of urllib3's without the addresses of objects."""
    cause = getattr(error, "reason", None) or error
    text = str(cause)
    return text.split(">: ", 1)[-1] or type(cause).__name__
