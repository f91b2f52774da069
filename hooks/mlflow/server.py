"""A tracking server, over HTTP: it has no call that removes points, so they can only be marked."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import urlsplit

import urllib3
from tracking import SUPERSEDED, StepError

SECONDS = 5.0
TAG_LENGTH = 5000
"""The longest value of a tag that servers take."""


class Server:
    """Reads and marks runs.

    Args:
        uri: ``http://`` or ``https://``.
    """

    def __init__(self, uri: str) -> None:
        try:
            parts = urlsplit(uri)
            parts.port  # noqa: B018 - raises ValueError
        except ValueError:  # its words may repeat a piece of the password
            raise StepError(
                "tracking_uri= is not a URL; correct it, and write a / in a password as %2F"
            ) from None
        self._place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._uri = f"{self._place}{parts.path.rstrip('/')}"
        user = parts.username or os.environ.get("MLFLOW_TRACKING_USERNAME")
        password = parts.password or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
        self._headers = {"Content-Type": "application/json"}
        if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
            self._headers["Authorization"] = f"Bearer {token}"
        elif user:
            self._headers |= urllib3.make_headers(basic_auth=f"{user}:{password}")
        retries = urllib3.Retry(
            3, backoff_factor=0.3, status_forcelist=(429, 502, 503, 504), allowed_methods=None
        )
        self._pool = urllib3.PoolManager(retries=retries, timeout=SECONDS)

    def tags(self, run: str) -> dict[str, str]:
        """Return a run's tags."""
        answer = self._ask("GET", f"runs/get?run_id={run}")
        return {tag["key"]: tag["value"] for tag in answer["run"]["data"].get("tags", [])}

    def mark(self, run: str, freeze: int, now: int) -> None:
        """Write down that points logged between two times (ms) were of a past that was rewound; old marks may go."""
        marks = json.loads(self.tags(run).get(SUPERSEDED, "[]"))
        marks.append([freeze, now])
        while len(json.dumps(marks)) > TAG_LENGTH:
            del marks[0]
        self._ask("POST", "runs/set-tag", {"run_id": run, "key": SUPERSEDED, "value": json.dumps(marks)})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            answer = self._pool.request(
                method,
                f"{self._uri}/api/2.0/mlflow/{path}",
                headers=self._headers,
                body=None if body is None else json.dumps(body).encode(),
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise StepError(f"{self._place} cannot be reached ({type(error).__name__})") from error
        if answer.status != 200:
            said = answer.data[:200].decode("utf-8", "replace")
            raise StepError(f"{self._place} answers {answer.status} to {path.partition('?')[0]}: {said}")
        return answer.json()
