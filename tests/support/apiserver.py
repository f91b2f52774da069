"""A stand-in for the Kubernetes API server: the part ckptrun speaks with, held to what the real one was seen to do.

HTTPS with a certificate of its own, bearer tokens, RBAC by verb, resource versions, preconditions, strategic merge
patches of the kinds in use, watches with bookmarks, 410 and an end. Whatever is written is checked strictly
(`kube_schemas`). It shares no code with ckptrun. The same tests run against a real server where there is one, by
`cluster`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import socket
import ssl
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from support import kube_schemas

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ADMIN = "admin-token"
KINDS = {
    "pods": ("", "Pod"),
    "nodes": ("", "Node"),
    "events": ("", "Event"),
    "leases": ("coordination.k8s.io", "Lease"),
}
_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[a-z0-9.]+)/v1)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>status))?"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class RefusalError(Exception):
    """An answer that is none of the asked for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class State:
    """What the server knows; it outlives the server, as etcd does."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.history: list[tuple[int, str, tuple[str, str, str], dict[str, Any]]] = []
        self.version = 1000
        self.forgotten = 0
        self.rules: list[dict[str, Any]] = []
        self.users: dict[str, str] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.problems: list[str] = []
        self.busy = 0
        self.generation = 0

    def put(self, kind: str, key: tuple[str, str, str], found: dict[str, Any]) -> dict[str, Any]:
        """Store an object under a new version; the lock is held."""
        self.version += 1
        found["metadata"]["resourceVersion"] = str(self.version)
        self.objects[key] = found
        self.history.append((self.version, kind, key, copy.deepcopy(found)))
        self.changed.notify_all()
        return found


class Server:
    """The server at a port; ``stop`` kills it with every connection, ``start`` has it come back."""

    def __init__(self, state: State, certificate: Path, key: Path) -> None:
        self.state = state
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self.port = 0
        self._server: _Http | None = None

    def start(self) -> None:
        server = _Http(("127.0.0.1", self.port), _Handler, bind_and_activate=False)
        server.state = self.state
        server.context = self._context
        server.allow_reuse_address = True
        server.server_bind()
        server.server_activate()
        self.port = server.server_address[1]
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        with self.state.changed:
            self.state.generation += 1  # every watch breaks off
            self.state.changed.notify_all()
        server.shutdown()
        server.server_close()
        for connection in list(server.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    state: State
    context: ssl.SSLContext

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connections: set[Any] = set()

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(30)
        try:
            secured = self.context.wrap_socket(request, server_side=True)
        except OSError:  # a client that does not trust us
            return
        self.connections.add(secured)
        try:
            super().finish_request(secured, client_address)
        finally:
            self.connections.discard(secured)
            with contextlib.suppress(OSError):
                secured.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was closed is nothing to tell of."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        state, verb, resource = self.server.state, "", ""
        try:
            found = _PATH.fullmatch(url.path)
            assert found is not None, self.path
            assert found["plural"] in KINDS, self.path
            verb = _VERBS.get(self.command) or (
                "watch" if query.get("watch") else "get" if found["name"] else "list"
            )
            resource = found["plural"] + (f"/{found['sub']}" if found["sub"] else "")
            user = self._user()
            self._authorize(user, verb, resource, found["group"] or "", found["namespace"] or "")
            if verb == "watch":
                state.requests.append((verb, resource, 200))
                self._watch(found, query)
                return
            with state.changed:
                answer = self._act(verb, found, json.loads(body) if body else None, query, user)
            self._answer(201 if verb == "create" else 200, answer)
            state.requests.append((verb, resource, 200))
        except RefusalError as refusal:
            state.requests.append((verb, resource, refusal.status))
            self._answer(refusal.status, _status(refusal.status, str(refusal)))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815 -- http.server's names

    def _user(self) -> str:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token == ADMIN:
            return "admin"
        if token not in self.server.state.users:
            raise RefusalError(401, "Unauthorized")
        if self.server.state.busy:
            self.server.state.busy -= 1
            raise RefusalError(503, "the server is currently unable to handle the request")
        return self.server.state.users[token]

    def _authorize(self, user: str, verb: str, resource: str, group: str, namespace: str) -> None:
        for rule in self.server.state.rules:
            if group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]:
                return
        if user != "admin":
            where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
            raise RefusalError(
                403,
                f'{resource} is forbidden: User "{user}" cannot {verb} resource "{resource}" '
                f'in API group "{group}"{where}',
            )

    def _act(
        self, verb: str, found: re.Match[str], body: dict[str, Any] | None, query: dict[str, str], user: str
    ) -> dict[str, Any]:
        state, plural = self.server.state, found["plural"]
        key = (plural, found["namespace"] or "", found["name"] or "")
        if verb == "create":
            assert body is not None
            return self._create(plural, key, body, user)
        if verb == "list":
            wanted = _selected(query)
            items = [o for (p, n, name), o in sorted(state.objects.items())
                     if p == plural and n == key[1] and wanted in {None, name}]  # fmt: skip
            return {"kind": "List", "metadata": {"resourceVersion": str(state.version)}, "items": items}
        if key not in state.objects:
            raise RefusalError(404, f'{plural} "{found["name"]}" not found')
        old = state.objects[key]
        if verb == "get":
            return old
        if verb == "delete":
            if query.get("gracePeriodSeconds") != "0" and plural == "pods":
                new = copy.deepcopy(old)
                new["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
                return state.put("MODIFIED", key, new)
            del state.objects[key]
            return old
        assert body is not None
        return self._change(verb, found["sub"] or "", key, body, user)

    def _create(
        self, plural: str, key: tuple[str, str, str], body: dict[str, Any], user: str
    ) -> dict[str, Any]:
        state = self.server.state
        new = copy.deepcopy(body)
        key = (plural, key[1], new["metadata"]["name"])
        self._check(new, plural, user)
        if key in state.objects:
            raise RefusalError(409, f'{plural} "{key[2]}" already exists')
        new["metadata"].setdefault("uid", str(uuid.uuid4()))
        return state.put("ADDED", key, new)

    def _change(
        self, verb: str, sub: str, key: tuple[str, str, str], body: dict[str, Any], user: str
    ) -> dict[str, Any]:
        state = self.server.state
        old = state.objects[key]
        if verb == "patch":
            if self.headers.get("Content-Type") != "application/strategic-merge-patch+json":
                raise RefusalError(415, "the body of the request was in an unknown format")
            new = merged(old, body)
        else:
            new = {**copy.deepcopy(body)}
            new["metadata"] = {**new["metadata"], "uid": new["metadata"].get("uid", old["metadata"]["uid"])}
        if verb == "patch" and new["metadata"]["uid"] != old["metadata"]["uid"]:
            raise RefusalError(422, "metadata.uid: Invalid value: field is immutable")
        for field in ("uid", "resourceVersion"):
            if new["metadata"].get(field, old["metadata"][field]) != old["metadata"][field]:
                raise RefusalError(
                    409, f"Operation cannot be fulfilled: Precondition failed: {field} in precondition"
                )
        if key[0] == "pods" and sub == "status":
            new["spec"] = old["spec"]
            for kept in ("ownerReferences",):
                new["metadata"].pop(kept, None)
                if kept in old["metadata"]:
                    new["metadata"][kept] = old["metadata"][kept]
        elif key[0] == "pods":
            new["status"] = old.get("status", {})
        self._check(new, key[0], user)
        return state.put("MODIFIED", key, new)

    def _check(self, found: dict[str, Any], plural: str, user: str) -> None:
        group, kind = KINDS[plural]
        expected = f"{group}/v1" if group else "v1"
        try:
            kube_schemas.check(found, expected, kind)
        except ValueError as error:
            if user != "admin":
                self.server.state.problems.append(f"{plural}: {error}: {json.dumps(found)}")
            raise RefusalError(422, f"{kind} is invalid: {error}") from error

    def _watch(self, found: re.Match[str], query: dict[str, str]) -> None:
        state, plural, namespace = self.server.state, found["plural"], found["namespace"] or ""
        name = _selected(query)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

        def fits(key: tuple[str, str, str]) -> bool:
            return key[:2] == (plural, namespace) and name in {None, key[2]}

        with state.changed:
            generation = state.generation
            first, position = self._first(int(query.get("resourceVersion") or 0), fits)
        for kind, thing in first:
            self._line(kind, thing)
            if kind == "ERROR":
                self.wfile.write(b"0\r\n\r\n")
                return
        while True:
            with state.changed:
                while state.generation == generation and len(state.history) <= position:
                    state.changed.wait(1.0)
                if state.generation != generation:
                    self.close_connection = True
                    return
                news = state.history[position:]
                position = len(state.history)
            for _, kind, key, thing in news:
                if fits(key):
                    self._line(kind, thing)
            if query.get("allowWatchBookmarks") == "true":
                version = {"resourceVersion": str(news[-1][0])}
                self._line("BOOKMARK", {"kind": KINDS[plural][1], "apiVersion": "v1", "metadata": version})

    def _first(
        self, begin: int, fits: Callable[[tuple[str, str, str]], bool]
    ) -> tuple[list[tuple[str, dict[str, Any]]], int]:
        """Return what a watch begins with, and where in the history it goes on."""
        state = self.server.state
        if not begin:
            found = [("ADDED", copy.deepcopy(o)) for key, o in state.objects.items() if fits(key)]
            return found, len(state.history)
        if begin < state.forgotten:
            return [("ERROR", _status(410, f"too old resource version: {begin} ({state.forgotten})"))], 0
        later = (i for i, entry in enumerate(state.history) if entry[0] > begin)
        return [], next(later, len(state.history))

    def _line(self, kind: str, thing: dict[str, Any]) -> None:
        line = json.dumps({"type": kind, "object": thing}).encode() + b"\n"
        for piece in (line[: len(line) // 2], line[len(line) // 2 :]):  # lines come in pieces
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def merged(old: Any, patch: Any) -> Any:
    """Return a strategic merge: conditions and taints by their keys, other lists replaced, null removes."""
    if not isinstance(old, dict) or not isinstance(patch, dict):
        return copy.deepcopy(patch)
    new = copy.deepcopy(old)
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        elif key == "conditions":
            entries = {entry["type"]: entry for entry in new.get(key, [])}
            for entry in value:
                entries[entry["type"]] = {**entries.get(entry["type"], {}), **entry}
            new[key] = list(entries.values())
        else:
            new[key] = merged(new.get(key), value)
    return new


def _selected(query: dict[str, str]) -> str | None:
    selector = query.get("fieldSelector", "")
    return selector.removeprefix("metadata.name=") if selector.startswith("metadata.name=") else None


def _status(code: int, message: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
