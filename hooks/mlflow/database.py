"""MLflow's database, through SQLAlchemy: SQLite, PostgreSQL, MySQL, whatever the server uses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Boolean, Float, String, column, create_engine, inspect, select, table, text
from sqlalchemy import func as sql
from tracking import TAG, Kept, Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection

RUNS = table(
    "runs",
    column("run_uuid", String),
    column("status", String),
    column("start_time", BigInteger),
    column("end_time", BigInteger),
    column("deleted_time", BigInteger),
    column("lifecycle_stage", String),
    column("experiment_id"),
)
EXPERIMENTS = table("experiments", column("experiment_id"), column("name", String))
TAGS = table("tags", column("key", String), column("value", String), column("run_uuid", String))


def _points(name: str) -> Any:
    return table(
        name,
        column("key", String),
        column("value", Float(53)),
        column("timestamp", BigInteger),
        column("step", BigInteger),
        column("is_nan", Boolean),
        column("run_uuid", String),
    )


METRICS, LATEST = _points("metrics"), _points("latest_metrics")
OF_MODELS = table(
    "logged_model_metrics",
    column("run_id", String),
    column("metric_name", String),
    column("metric_timestamp_ms", BigInteger),
    column("metric_step", BigInteger),
)
POINT = ("key", "value", "timestamp", "step", "is_nan")


class Database:
    """See `tracking.Store`.

    Args:
        uri: as MLflow takes it.
    """

    def __init__(self, uri: str) -> None:
        for old in ("postgresql://", "postgres://", "postgresql+psycopg2://"):
            if uri.startswith(old):  # the driver that ckptrun brings
                uri = f"postgresql+psycopg://{uri.removeprefix(old)}"
        self._engine = create_engine(uri)

    def _is_there(self) -> bool:
        """Tell whether MLflow has made its tables yet; asking SQLite for them would make the file."""
        place = self._engine.url
        if place.get_backend_name() == "sqlite" and not Path(place.database or "").is_file():
            return False
        return inspect(self._engine).has_table(RUNS.name)

    def runs(self, ids: Iterable[str]) -> list[Run]:
        """Return runs; see `Store`."""
        return self._runs(RUNS.c.run_uuid.in_(list(ids)))

    def tagged(self, lineage: str) -> list[Run]:
        """Return runs; see `Store`."""
        of_lineage = select(TAGS.c.run_uuid).where(TAGS.c.key == TAG, TAGS.c.value == lineage)
        return self._runs(RUNS.c.run_uuid.in_(of_lineage), RUNS.c.lifecycle_stage == "active")

    def in_experiment(self, name: str) -> list[Run]:
        """Return runs; see `Store`."""
        of_name = select(EXPERIMENTS.c.experiment_id).where(EXPERIMENTS.c.name == name)
        return self._runs(RUNS.c.experiment_id.in_(of_name), RUNS.c.lifecycle_stage == "active")

    def _runs(self, *conditions: Any) -> list[Run]:
        wanted = select(RUNS.c.run_uuid, RUNS.c.status, RUNS.c.start_time, RUNS.c.end_time)
        if not self._is_there():
            return []
        with self._engine.connect() as connection:
            rows = connection.execute(wanted.where(*conditions)).all()
        return [Run(name, status == "RUNNING", began or 0, ended) for name, status, began, ended in rows]

    def counts(self, run: str) -> dict[str, int]:
        """Return counts; see `Store`."""
        with self._engine.connect() as connection:
            return self._counts(connection, run)

    @staticmethod
    def _counts(connection: Connection, run: str) -> dict[str, int]:
        wanted = select(METRICS.c.key, sql.count()).where(METRICS.c.run_uuid == run).group_by(METRICS.c.key)
        return {row[0]: row[1] for row in connection.execute(wanted)}

    def cut(self, run: str, kept: Mapping[str, Kept], *, dry_run: bool) -> int:
        """Remove points in one transaction; see `Store`."""
        count = 0
        with self._engine.begin() as connection:
            for key, there in self._counts(connection, run).items():
                limits = kept[key]
                if there > limits.surely:
                    rows = self._from(connection, run, key, limits.surely)
                    late = limits.cut([row["timestamp"] for row in rows], limits.surely)
                    count += len(late)
                    if late and not dry_run:
                        self._remove(connection, run, key, [rows[index] for index in late])
        return count

    def _from(self, connection: Connection, run: str, key: str, start: int) -> list[dict[str, Any]]:
        """Return the points of a metric from a number on, in the order in which they were logged."""
        wanted = select(*(METRICS.c[name] for name in POINT)).where(
            METRICS.c.run_uuid == run, METRICS.c.key == key
        )
        if self._engine.dialect.name == "sqlite":
            wanted = wanted.order_by(text("rowid"))
        else:
            wanted = wanted.order_by(METRICS.c.timestamp, METRICS.c.step, METRICS.c.value)
        return [dict(row) for row in connection.execute(wanted.limit(1 << 62).offset(start)).mappings()]

    def _remove(self, connection: Connection, run: str, key: str, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            connection.execute(
                METRICS.delete().where(
                    METRICS.c.run_uuid == run, *(METRICS.c[name] == row[name] for name in POINT)
                )
            )
        if inspect(connection).has_table(OF_MODELS.name):
            for moment, step in {(row["timestamp"], row["step"]) for row in rows}:
                connection.execute(
                    OF_MODELS.delete().where(
                        OF_MODELS.c.run_id == run,
                        OF_MODELS.c.metric_name == key,
                        OF_MODELS.c.metric_timestamp_ms == moment,
                        OF_MODELS.c.metric_step == step,
                    )
                )
        newest = (
            select(*(METRICS.c[name] for name in POINT))
            .where(METRICS.c.run_uuid == run, METRICS.c.key == key)
            .order_by(METRICS.c.step.desc(), METRICS.c.timestamp.desc(), METRICS.c.value.desc())
            .limit(1)
        )
        left = connection.execute(newest).mappings().first()
        of_key = (LATEST.c.run_uuid == run, LATEST.c.key == key)
        if left is None:
            connection.execute(LATEST.delete().where(*of_key))
        else:
            connection.execute(LATEST.update().where(*of_key).values(**left))

    def reopen(self, run: str) -> None:
        """Have a run be open again; see `Store`."""
        with self._engine.begin() as connection:
            connection.execute(
                RUNS.update().where(RUNS.c.run_uuid == run).values(status="RUNNING", end_time=None)
            )

    def discard(self, run: str, moment: int) -> None:
        """Delete a run; see `Store`."""
        with self._engine.begin() as connection:
            connection.execute(
                RUNS.update()
                .where(RUNS.c.run_uuid == run)
                .values(lifecycle_stage="deleted", deleted_time=moment)
            )
