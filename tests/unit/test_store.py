"""The database: what is written is read back, one change is one transaction, and damage is told in one sentence."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import event

from mlflow_restaurant.config import DeploymentConfig
from mlflow_restaurant.control import tables
from mlflow_restaurant.control.store import MIGRATIONS, Store
from mlflow_restaurant.entities import Deployment, Endpoint, ModelArtifact, Revision, utcnow
from mlflow_restaurant.errors import HomeError
from mlflow_restaurant.states import DeploymentState, RevisionState

NOW = utcnow()


def deployment(name: str = "d", **changes: Any) -> Deployment:
    return Deployment.model_validate({"name": name, "created_at": NOW, "updated_at": NOW, **changes})


def revision(number: int = 1, name: str = "d", **changes: Any) -> Revision:
    config = DeploymentConfig.from_options({"replicas": "2", "env.A": "1", "model_config": '{"k": [1]}'})
    artifact = ModelArtifact(digest="0" * 32, model_uri="models:/m@champion", model_version="3")
    values = {"deployment": name, "number": number, "artifact": artifact, "config": config, "created_at": NOW}
    return Revision(**{**values, **changes})


def endpoint(name: str = "e", **traffic: float) -> Endpoint:
    return Endpoint(name=name, traffic=traffic, created_at=NOW, updated_at=NOW)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Store]:
    store = Store(path)
    try:
        store.open()
        yield store
    finally:
        store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with opened(path) as made:
        yield made


def everything(store: Store) -> tuple[Any, ...]:
    return store.deployments(), store.revisions(), store.endpoints(), store.events("d")


def limit_pages(store: Store, pages: int) -> None:
    """Let the database hold no more than so many pages, as if the disk were full."""

    def configure(connection: Any, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}")

    event.listen(store.engine, "connect", configure)


class TestRoundTrips:
    def test_a_new_database_is_empty(self, store: Store) -> None:
        assert everything(store) == ([], [], [], [])

    def test_records_come_back_equal(self, store: Store) -> None:
        written = deployment(endpoint="e", serving=1, state=DeploymentState.UNHEALTHY, message="ä\n'; --")
        store.save(deployment=written, revision=revision(), endpoint=endpoint(d=99.5, x=0.5))

        assert store.deployments() == [written]
        assert store.revisions() == [revision()]
        assert store.endpoints() == [endpoint(d=99.5, x=0.5)]

    def test_they_come_back_after_it_was_closed(self, path: Path) -> None:
        with opened(path) as first:
            first.save(deployment=deployment(), revision=revision())
            before = everything(first)

        with opened(path) as second:
            assert everything(second) == before

    def test_moments_are_in_utc(self, store: Store) -> None:
        store.save(deployment=deployment())

        assert store.deployments()[0].created_at == NOW
        assert store.deployments()[0].created_at.tzinfo is not None

    def test_the_same_key_again_replaces(self, store: Store) -> None:
        store.save(deployment=deployment(), revision=revision(), endpoint=endpoint(d=100))
        store.save(
            deployment=deployment(message="new"),
            revision=revision(state=RevisionState.SERVING),
            endpoint=endpoint(),
        )

        assert [d.message for d in store.deployments()] == ["new"]
        assert [r.state for r in store.revisions()] == [RevisionState.SERVING]
        assert [e.traffic for e in store.endpoints()] == [{}]

    def test_revisions_are_listed_in_order_and_by_deployment(self, store: Store) -> None:
        for name, number in [("b", 1), ("a", 10), ("a", 2)]:
            store.save(revision=revision(number, name))

        assert [(r.deployment, r.number) for r in store.revisions()] == [("a", 2), ("a", 10), ("b", 1)]
        assert [r.number for r in store.revisions("a")] == [2, 10]

    def test_a_promotion_is_one_change(self, store: Store) -> None:
        store.save(deployment=deployment(serving=1), revision=revision(1, state=RevisionState.SERVING))
        store.save(
            deployment=deployment(serving=2),
            revision=revision(2, state=RevisionState.SERVING, served_at=NOW),
            superseded=1,
            note=("promoted", "revision 2 serves"),
        )

        first, second = store.revisions()
        assert [r.state for r in (first, second)] == [RevisionState.SUPERSEDED, RevisionState.SERVING]
        assert first.ended_at == second.served_at == NOW
        [noted] = store.events("d")
        assert (noted["kind"], noted["message"], noted["revision"]) == ("promoted", "revision 2 serves", 2)

    def test_a_deleted_deployment_leaves_its_events_and_others_stay(self, store: Store) -> None:
        for name in ("d", "other"):
            store.save(deployment=deployment(name), revision=revision(name=name), note=("n", "m"))

        store.delete_deployment("d")
        store.delete_deployment("d")

        assert [d.name for d in store.deployments()] == ["other"]
        assert [r.deployment for r in store.revisions()] == ["other"]
        assert [row["kind"] for row in store.events("d")] == ["n"]
        assert len(store.events("other")) == 1

    def test_a_deleted_endpoint_leaves_its_deployments(self, store: Store) -> None:
        store.save(deployment=deployment(endpoint="e"), endpoint=endpoint(d=100))

        store.delete_endpoint("e")

        assert store.endpoints() == []
        assert store.deployments()[0].endpoint is None


class TestMigrations:
    def test_they_make_the_tables_that_the_code_knows(self, store: Store) -> None:
        with store.engine.connect() as connection:
            found = sa.MetaData()
            found.reflect(connection)

        assert set(found.tables) - {"alembic_version"} == set(tables.metadata.tables)
        for name, table in tables.metadata.tables.items():
            known = {(c.name, c.nullable, c.primary_key) for c in table.columns}
            assert {(c.name, c.nullable, c.primary_key) for c in found.tables[name].columns} == known

    def test_opening_twice_changes_nothing(self, store: Store) -> None:
        store.save(deployment=deployment(), revision=revision())
        before = everything(store)

        store.open()

        assert everything(store) == before

    def test_a_path_with_odd_characters(self, tmp_path: Path) -> None:
        folder = tmp_path / "a %20 ä?b#c"
        folder.mkdir()

        with opened(folder / "state.db") as store:
            store.save(deployment=deployment())

        assert (folder / "state.db").is_file()

    def test_a_migration_that_was_cut_off_is_made_again(self, path: Path) -> None:
        cut = Store(path)
        limit_pages(cut, 5)
        with pytest.raises(HomeError):
            cut.open()
        cut.close()

        with opened(path) as store:
            assert everything(store) == ([], [], [], [])

    def test_what_an_earlier_version_wrote_is_read(self, path: Path) -> None:
        columns = "deployment, number, artifact, config, state, message, created_at"
        artifact = ModelArtifact(digest="0" * 32, model_uri="m").model_dump_json()
        old = Store(path)
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with old.engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0002")
            connection.commit()
        old.close()
        with contextlib.closing(sqlite3.connect(path)) as written, written:
            written.execute(
                f"INSERT INTO revisions ({columns}) VALUES ('d', 1, ?, '{{}}', 'SERVING', '', '2026-01-01 00:00:00')",
                [artifact],
            )
            written.execute(
                "INSERT INTO endpoints VALUES ('e', '{}', '2026-01-01 00:00:00', '2026-01-01 00:00:00')"
            )

        with opened(path) as store:
            (found,), (split,) = store.revisions(), store.endpoints()

        assert (found.actor, found.reason, found.served_at, found.ended_at) == ("", "", None, None)
        assert split.sticky == ""

    def test_a_database_of_a_later_version_is_refused(self, path: Path) -> None:
        with opened(path):
            pass
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")

        store = Store(path)
        with pytest.raises(HomeError, match=str(path)):
            store.open()
        store.close()


class TestTwoConnections:
    def test_each_sees_what_the_other_wrote(self, store: Store, path: Path) -> None:
        with opened(path) as other:
            store.save(deployment=deployment("a"))
            other.save(deployment=deployment("b"))

            assert (
                [d.name for d in store.deployments()] == [d.name for d in other.deployments()] == ["a", "b"]
            )

    def test_a_reader_does_not_hinder_a_writer(self, store: Store, path: Path) -> None:
        with opened(path) as other, other.engine.begin() as reading:
            reading.execute(sa.select(tables.deployments)).all()
            store.save(deployment=deployment())

        assert store.deployments() == [deployment()]

    def test_a_database_that_stays_locked_is_told_of(self, store: Store, path: Path) -> None:
        with store.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout=0")
        event.listen(store.engine, "checkout", lambda c, *_: c.execute("PRAGMA busy_timeout=0"))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")

            with pytest.raises(HomeError, match=r"locked.*nothing was changed"):
                store.save(deployment=deployment())
            other.execute("ROLLBACK")

        assert store.deployments() == []


class TestDamage:
    def test_a_file_that_is_no_database(self, path: Path) -> None:
        path.write_bytes(b"not a database" * 1000)
        store = Store(path)

        with pytest.raises(HomeError, match=f"{path} is damaged.*restore it"):
            store.open()
        store.close()

    def test_a_database_with_a_broken_page(self, path: Path) -> None:
        with opened(path) as store:
            for number in range(200):
                store.save(revision=revision(number, message="x" * 200))
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(size // 2 // 4096 * 4096)
            file.write(os.urandom(4096 * 4))

        damaged = Store(path)
        with pytest.raises(HomeError, match="damaged"):
            damaged.open()
        damaged.close()

    def test_a_directory_in_its_place(self, path: Path) -> None:
        path.mkdir()
        store = Store(path)

        with pytest.raises(HomeError, match="can't be used"):
            store.open()
        store.close()

    def test_a_directory_that_is_not_there(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "none" / "state.db")

        with pytest.raises(HomeError, match="can't be used"):
            store.open()
        store.close()

    def test_a_full_disk_changes_nothing_and_what_is_there_can_be_read(self, path: Path) -> None:
        with opened(path) as store:
            store.save(deployment=deployment(), revision=revision())
        with contextlib.closing(sqlite3.connect(path)) as connection:
            [pages] = connection.execute("PRAGMA page_count").fetchone()
        full = Store(path)
        limit_pages(full, pages)
        before = everything(full)

        with pytest.raises(HomeError, match=r"full.*nothing was changed"):
            full.save(
                deployment=deployment(serving=2),
                revision=revision(2, message="x" * 100_000),
                superseded=1,
                note=("n", "m"),
            )

        assert everything(full) == before
        full.close()

    def test_a_database_that_may_only_be_read(self, path: Path) -> None:
        with opened(path) as store:
            store.save(deployment=deployment())
        closed = Store(path)
        event.listen(closed.engine, "connect", lambda c, _: c.execute("PRAGMA query_only=ON"))

        with pytest.raises(HomeError, match="nothing was changed"):
            closed.delete_deployment("d")

        assert closed.deployments() == [deployment()]
        closed.close()
