"""The hook `webhook`: POSTs the phase, or the job's messages, to a URL. See README.md beside this file.

Neither the secret nor the URL's path, which may be one, is ever printed: failures name the host only.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
import time
import urllib.parse
import urllib.request
from typing import Any

import urllib3

REDIRECTS = 3
ASIDE_SECONDS = 1.0
"""Kept free of the hook's time, so that it can still say what went wrong."""
PAUSES = (0.2, 2.0)
"""The first pause between tries and the longest, in seconds; each is twice the one before."""
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
FIELDS = (
    "version",
    "phase",
    "lineage",
    "run",
    "epoch",
    "incarnation",
    "checkpoint",
    "outcome",
    "cause",
    "exit",
)


class UndeliveredError(Exception):
    """The message was not accepted, and why; a further try makes no sense."""


class PassingError(UndeliveredError):
    """Likewise, but it may be accepted later: after ``pause`` seconds, if the receiver has named them."""

    def __init__(self, why: str, pause: float = 0.0) -> None:
        super().__init__(why)
        self.pause = pause


def main() -> int:
    """Deliver this phase; return the exit code."""
    context = json.load(sys.stdin)
    options = context["options"]
    if not _is_url(options["url"]):
        print("url= is not a URL; correct it, and write a / in a password as %2F", file=sys.stderr)
        return 1
    messages = context.get("messages")
    if context.get("dry_run"):
        what = context["phase"] if messages is None else f"{len(messages)} messages"
        reason = f"would POST {what} to {_place(options['url'])}"
        print(json.dumps({"outcome": "ok", "reason": reason, "done": ["posted"]}))
        return 0
    deadline = time.monotonic() + float(context.get("timeout") or 15) - ASIDE_SECONDS
    if messages is not None:
        print(json.dumps(deliver_all(messages, options, deadline)))
        return 0
    try:
        deliver(notice(context, options), _identity(context), options, deadline)
    except UndeliveredError as error:
        print(_refusal(options, error), file=sys.stderr)
        return 1
    print(json.dumps({"outcome": "ok", "done": ["posted"]}))
    return 0


def deliver_all(messages: list[dict[str, Any]], options: dict[str, Any], deadline: float) -> dict[str, Any]:
    """POST messages in their order as far as they are taken; return the hook's answer."""
    released: list[str] = []
    for message in messages:
        if released and time.monotonic() > deadline:
            break  # what is left comes with the next call
        payload = message["payload"]
        body = {"text": payload} if options.get("format") == "slack" and isinstance(payload, str) else payload
        try:
            deliver(body, message["id"], options, deadline)
        except UndeliveredError as error:
            reason = f"message {message['key']!r}: {_refusal(options, error)}"
            return {"outcome": "failed", "reason": reason, "released": released}
        released.append(message["key"])
    return {"outcome": "ok", "done": ["posted"], "released": released}


def deliver(value: Any, key: str, options: dict[str, Any], deadline: float) -> None:
    """POST until the receiver has taken it, what fails will not pass, or tries or time are used up."""
    patience = float(options.get("patience", 3))
    tries = 1 + int(options.get("retries", 3))
    body = json.dumps(value, separators=(",", ":")).encode()
    pause, longest = PAUSES
    while True:
        tries -= 1
        try:
            _post(options["url"], body, _headers(key, body, options.get("secret")), patience, deadline)
        except PassingError as error:
            wait = max(pause, error.pause)
            if tries == 0 or time.monotonic() + wait > deadline:
                raise
            time.sleep(wait)
            pause = min(2 * pause, longest)
        else:
            return


def notice(context: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return what is said of a phase."""
    return slack(context) if options.get("format") == "slack" else plain(context)


def plain(context: dict[str, Any]) -> dict[str, Any]:
    """Return the message of ``format=json``: what happened, and nothing of the command, options or data."""
    return {name: context.get(name) for name in FIELDS}


def slack(context: dict[str, Any]) -> dict[str, Any]:
    """Return the message of ``format=slack``, as an incoming webhook takes it."""
    checkpoint = (context.get("checkpoint") or {}).get("id")
    about = [f"*{_escaped(context['lineage'])}*", context["phase"]]
    if checkpoint:
        about.append(f"`{_escaped(checkpoint)}`")
    if incarnation := context.get("incarnation"):
        about.append(f"(incarnation {incarnation})")
    outcome, cause, ended = (context.get(name) or {} for name in ("outcome", "cause", "exit"))
    if cause:
        about.append(f"- {_escaped(cause.get('text') or cause.get('kind'))}")
    if outcome and not outcome.get("ok"):
        about.append(f"- failed: {_escaped(outcome.get('error'))}")
    if ended:
        about.append(f"- ended by {_escaped(ended.get('by'))} with {_escaped(ended.get('code'))}")
    return {"text": " ".join(about)}


def _escaped(value: Any) -> str:
    """Escape what Slack takes for markup, so that a job's words cannot mention a channel."""
    return str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _identity(context: dict[str, Any]) -> str:
    """Return the key of a phase's notice: the same whenever the hook is run for it."""
    checkpoint = (context.get("checkpoint") or {}).get("id")
    identity = [context.get(name) for name in ("lineage", "run", "incarnation", "phase")] + [checkpoint]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def _refusal(options: dict[str, Any], error: UndeliveredError) -> str:
    return f"{_place(options['url'])} did not take the message: {error}"


def _headers(key: str, body: bytes, secret: str | None) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "ckptrun-webhook",
        "Idempotency-Key": key,
    }
    if secret:
        moment = str(int(time.time()))
        signed = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
        headers |= {"X-Ckptrun-Timestamp": moment, "X-Ckptrun-Signature": f"sha256={signed}"}
    return headers


def _post(url: str, body: bytes, headers: dict[str, str], patience: float, deadline: float) -> None:
    """Send once; follow redirects that keep the method and the host."""
    first = _origin(url)
    for _ in range(REDIRECTS + 1):
        answer = _send(url, body, headers, patience, deadline)
        if 200 <= answer.status < 300:
            return
        where = answer.headers.get("Location")
        if 300 <= answer.status < 400 and where:
            url = urllib.parse.urljoin(url, where)
            if _origin(url) != first:
                raise UndeliveredError(f"it redirects to {_place(url)}; if that is right, give that URL")
            if answer.status not in {307, 308}:
                raise UndeliveredError(
                    f"it answers {answer.status}, which turns a POST into a GET; correct url="
                )
            continue
        why = f"it answers {answer.status}"
        if answer.status in PASSING:
            raise PassingError(why, _named_pause(answer.headers.get("Retry-After")))
        raise UndeliveredError(f"{why}; see the receiver's log")
    raise UndeliveredError(f"it redirects more than {REDIRECTS} times; correct url=")


def _send(
    url: str, body: bytes, headers: dict[str, str], patience: float, deadline: float
) -> urllib3.BaseHTTPResponse:
    parts = urllib.parse.urlsplit(url)
    if parts.username:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        headers = headers | urllib3.make_headers(basic_auth=pair)
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    left = max(0.1, min(patience, deadline - time.monotonic()))
    timeout = urllib3.Timeout(connect=left, read=left)
    try:
        return _pool(parts).request(
            "POST", url, body=body, headers=headers, timeout=timeout, retries=False, redirect=False
        )
    except urllib3.exceptions.SSLError as error:
        raise UndeliveredError("its certificate is not trusted, or it does not speak TLS") from error
    except urllib3.exceptions.LocationValueError as error:
        raise UndeliveredError("url= is not a URL; correct it") from error
    except urllib3.exceptions.NewConnectionError as error:  # a TimeoutError to urllib3, whatever its cause
        raise PassingError("it cannot be reached") from error
    except urllib3.exceptions.TimeoutError as error:
        raise PassingError(f"no answer within {left:g} s") from error
    except urllib3.exceptions.HTTPError as error:
        raise PassingError(f"it cannot be reached ({type(error).__name__})") from error


def _pool(parts: urllib.parse.SplitResult) -> urllib3.PoolManager:
    """Return the way there: through the proxy of the environment's http_proxy and no_proxy, if any."""
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        return urllib3.ProxyManager(proxy)
    return urllib3.PoolManager()


def _named_pause(value: str | None) -> float:
    try:
        return float(urllib3.Retry().parse_retry_after(value)) if value else 0.0
    except urllib3.exceptions.InvalidHeader:
        return 0.0


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _is_url(url: str) -> bool:
    """Tell whether what stands for host and port is one, and not a piece of a password."""
    try:
        parts = urllib.parse.urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _place(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


if __name__ == "__main__":
    sys.exit(main())
