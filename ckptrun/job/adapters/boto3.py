"""boto3 with stable idempotency tokens, where a service has them: ``with_keys(boto3.client("ec2"))``.

botocore fills such parameters (``ClientToken``, ``ClientRequestToken``, …) with a random value; a replay would get
another. A message to a FIFO queue or topic gets its ``MessageDeduplicationId``.
"""

from __future__ import annotations

import uuid

from ckptrun.job import effects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SPACE = uuid.UUID("5f0c0c5e-9f3f-4c7e-8f57-0b6a3a1d2c11")


def with_keys(client: Any) -> Any:
    """Have the calls of a client carry tokens that a replay repeats, and return it; given ones stay."""
    client.meta.events.register_first("provide-client-params.*.*", _add)
    return client


def _add(params: dict[str, Any], model: Any, **_: Any) -> dict[str, Any]:
    service = model.service_model.service_name
    wanted = [name for name in model.idempotent_members if name not in params]
    target = str(params.get("QueueUrl") or params.get("TopicArn") or "")
    if model.name in {"SendMessage", "Publish"} and target.endswith(".fifo"):
        wanted += [] if "MessageDeduplicationId" in params else ["MessageDeduplicationId"]
    if not wanted:
        return params
    key = effects.key(service, model.name, target)
    return {**params, **{name: str(uuid.uuid5(_SPACE, f"{key} {name}")) for name in wanted}}
