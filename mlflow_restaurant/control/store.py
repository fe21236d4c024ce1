"""The database: deployments, revisions, endpoints and events. One transaction a change.

SQLite in WAL mode, behind SQLAlchemy; the schema is brought up to date by ordered migrations when it is opened.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import event
from sqlalchemy.exc import DatabaseError, OperationalError

from mlflow_restaurant.control.tables import deployments, endpoints, events, revisions
from mlflow_restaurant.entities import Deployment, Endpoint, Event, Revision, isoformat, utcnow
from mlflow_restaurant.errors import HomeError, one_line
from mlflow_restaurant.process.faults import fault_point
from mlflow_restaurant.states import RevisionState

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_S = 2
"""Time to wait for another program that has the database locked; the controller stands still meanwhile."""
MOMENTS = ("created_at", "updated_at", "served_at", "ended_at")


class Store:
    """The database of one home. Its methods raise `HomeError` when the database can't be read or written."""

    def __init__(self, database: Path) -> None:
        self.database = database
        url = sa.URL.create("sqlite", database=str(database))
        self.engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
        event.listen(self.engine, "connect", _configure)
        event.listen(self.engine, "begin", _begin)

    def open(self) -> None:
        """Bring the schema up to date."""
        with self._explained(), self.engine.connect() as connection:
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
            if found != "ok":
                raise self._damaged(str(found))
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()

    def close(self) -> None:
        self.engine.dispose()

    def deployments(self) -> list[Deployment]:
        with self._transaction() as connection:
            rows = connection.execute(sa.select(deployments).order_by(deployments.c.name)).mappings()
            return [Deployment.model_validate(_aware(row)) for row in rows]

    def revisions(self, name: str | None = None) -> list[Revision]:
        query = sa.select(revisions).order_by(revisions.c.deployment, revisions.c.number)
        if name is not None:
            query = query.where(revisions.c.deployment == name)
        with self._transaction() as connection:
            return [Revision.model_validate(_aware(row)) for row in connection.execute(query).mappings()]

    def endpoints(self) -> list[Endpoint]:
        with self._transaction() as connection:
            rows = connection.execute(sa.select(endpoints).order_by(endpoints.c.name)).mappings()
            return [Endpoint.model_validate(_aware(row)) for row in rows]

    def save(
        self,
        *,
        deployment: Deployment | None = None,
        revision: Revision | None = None,
        superseded: int | None = None,
        endpoint: Endpoint | None = None,
        joining: Sequence[Deployment] = (),
        note: tuple[str, str] | None = None,
        actor: str = "",
    ) -> None:
        """Write what is given, as one change.

        Args:
            deployment: the record to insert or replace; likewise `revision` and `endpoint`.
            joining: further deployments to replace.
            superseded: number of the deployment's revision that serves no longer.
            note: kind and text of the event to record with the change; `actor` is who made it.
        """
        with self._change("save") as connection:
            for joined in joining:
                _replace(connection, deployments, joined.model_dump(mode="json"), joined)
            if endpoint is not None:
                _replace(connection, endpoints, endpoint.model_dump(mode="json"), endpoint)
            if deployment is not None:
                _replace(connection, deployments, deployment.model_dump(mode="json"), deployment)
                if superseded is not None:
                    ended = (revision.served_at if revision is not None else None) or utcnow()
                    connection.execute(
                        revisions.update()
                        .where(revisions.c.deployment == deployment.name, revisions.c.number == superseded)
                        .values(state=RevisionState.SUPERSEDED.value, ended_at=ended)
                    )
            if revision is not None:
                values = revision.model_dump(mode="json")
                values["config"] = revision.config.to_dict()
                _replace(connection, revisions, values, revision)
            if note is not None:
                _record(connection, note, actor, deployment, revision, endpoint)

    def delete_deployment(self, name: str) -> None:
        """Remove a deployment and its revisions; its events stay."""
        with self._change("delete deployment") as connection:
            connection.execute(revisions.delete().where(revisions.c.deployment == name))
            connection.execute(deployments.delete().where(deployments.c.name == name))

    def delete_endpoint(self, name: str) -> None:
        """Remove an endpoint; its deployments stay, without one."""
        with self._change("delete endpoint") as connection:
            connection.execute(
                deployments.update().where(deployments.c.endpoint == name).values(endpoint=None)
            )
            connection.execute(endpoints.delete().where(endpoints.c.name == name))

    def record(self, happened: Sequence[Event]) -> None:
        """Write events that change nothing else."""
        with self._change("record events") as connection:
            connection.execute(events.insert(), [_event_values(event) for event in happened])

    def events(
        self,
        name: str | None = None,
        *,
        since: datetime | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """Return events in the order in which they happened.

        Args:
            name: only those of the deployments or endpoints of this name, also of what is deleted.
            since: only those from then on.
            after: only those with a greater id.
            limit: the newest so many.
        """
        query = sa.select(events).where(events.c.id > after).order_by(events.c.id.desc()).limit(limit)
        if name is not None:
            query = query.where(sa.or_(events.c.deployment == name, events.c.endpoint == name))
        if since is not None:
            query = query.where(events.c.at >= isoformat(since))
        with self._transaction() as connection:
            found = [dict(row) for row in connection.execute(query).mappings()]
        return sorted(found, key=lambda row: (row["at"], row["id"]))

    def prune_events(self, keep: int, oldest: datetime) -> None:
        """Remove the events before `oldest`, and of each kind of each deployment all but the newest `keep`."""
        newest_first = sa.func.row_number().over(
            partition_by=[events.c.kind, events.c.deployment, events.c.endpoint], order_by=events.c.id.desc()
        )
        ranked = sa.select(events.c.id, newest_first.label("rank")).subquery()
        surplus = sa.select(ranked.c.id).where(ranked.c.rank > keep)
        with self._change("prune events") as connection:
            connection.execute(
                events.delete().where(sa.or_(events.c.id.in_(surplus), events.c.at < isoformat(oldest)))
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self._explained(), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _change(self, name: str) -> Iterator[sa.Connection]:
        """A transaction that writes."""
        fault_point(f"{name}: before the transaction")
        with self._transaction() as connection:
            yield connection
            fault_point(f"{name}: before the commit")
        fault_point(f"{name}: after the commit")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except CommandError as e:
            raise HomeError(
                f"The database {self.database} was written by a later version of mlflow-restaurant ({e}); upgrade."
            ) from None
        except OperationalError as e:
            raise HomeError(
                f"The database {self.database} can't be used: {one_line(e.orig)}; nothing was changed."
            ) from e
        except DatabaseError as e:
            raise self._damaged(str(e.orig)) from e

    def _damaged(self, what: str) -> HomeError:
        return HomeError(
            f"The database {self.database} is damaged ({one_line(what)}); restore it from a copy, or move it away to start"
            " without deployments."
        )


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _configure(connection: Any, _: object) -> None:
    # The driver would commit before each CREATE TABLE; with this off, a migration is one transaction.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _replace(connection: sa.Connection, table: sa.Table, values: dict[str, Any], record: Any) -> None:
    moments: dict[str, Any] = {key: getattr(record, key) for key in MOMENTS if key in values}
    values = {**values, **moments}
    keys = [column.name for column in table.primary_key]
    matches = sa.and_(*(table.c[key] == values[key] for key in keys))
    if connection.execute(table.update().where(matches).values(values)).rowcount == 0:
        connection.execute(table.insert().values(values))


def _record(
    connection: sa.Connection,
    note: tuple[str, str],
    actor: str,
    deployment: Deployment | None,
    revision: Revision | None,
    endpoint: Endpoint | None,
) -> None:
    event = Event(
        at=utcnow(),
        kind=note[0],
        message=note[1],
        deployment=deployment.name if deployment else None,
        revision=revision.number if revision else None,
        endpoint=endpoint.name if endpoint else None,
        actor=actor,
    )
    connection.execute(events.insert().values(_event_values(event)))


def _event_values(event: Event) -> dict[str, Any]:
    return {**event.model_dump(), "at": isoformat(event.at)}


def _aware(row: Any) -> dict[str, Any]:
    return {
        key: value.replace(tzinfo=timezone.utc) if isinstance(value, datetime) else value
        for key, value in row.items()
    }
