"""The tests' own servers: each database is empty and another, and what was written survives a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support.postgres import PostgresServer
    from support.redis import RedisServer


def test_postgres_serves_a_database_per_test_and_restarts(postgres_server: PostgresServer):
    import psycopg  # noqa: PLC0415 - slow to import, for workers that do not run it

    first, second = postgres_server.database(), postgres_server.database()
    with psycopg.connect(first) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    postgres_server.stop()
    postgres_server.start()
    with psycopg.connect(first) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    with psycopg.connect(second) as connection:
        assert connection.execute("SELECT to_regclass('kept')").fetchone() == (None,)


def test_redis_serves_a_database_per_test_and_restarts(redis_server: RedisServer):
    import redis  # noqa: PLC0415 - slow to import, for workers that do not run it

    first, second = redis_server.database(), redis_server.database()
    with redis.Redis.from_url(first) as client:
        client.set("kept", "1")
    redis_server.stop()
    redis_server.start()
    with redis.Redis.from_url(first) as client:
        assert client.get("kept") == b"1"
    with redis.Redis.from_url(second) as client:
        assert client.get("kept") is None
