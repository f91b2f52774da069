"""Servers that the hooks' tests share."""

from __future__ import annotations

from support.postgres import postgres_server
from support.redis import redis_server

__all__ = ["postgres_server", "redis_server"]
