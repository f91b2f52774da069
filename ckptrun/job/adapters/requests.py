"""`requests` with an ``Idempotency-Key`` on every request that changes something: ``session = Session()``."""

from __future__ import annotations

import requests

from ckptrun.job import effects

HEADER = "Idempotency-Key"
CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Session(requests.Session):
    """A session whose requests carry a key; one that has a key already keeps it, and so do all tries of a request."""

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """Prepare a request as `requests` does, and give it its key."""
        prepared = super().prepare_request(request)
        if prepared.method in CHANGING and HEADER not in prepared.headers:
            prepared.headers[HEADER] = effects.key(prepared.method, prepared.url)
        return prepared
