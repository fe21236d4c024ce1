"""The tables of the database, as the newest migration leaves them."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

deployments = sa.Table(
    "deployments",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("endpoint", sa.String),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("serving", sa.Integer),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("updated_at", sa.DateTime, nullable=False),
)

revisions = sa.Table(
    "revisions",
    metadata,
    sa.Column("deployment", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("artifact", sa.JSON, nullable=False),
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("tracking_uri", sa.Text),
    sa.Column("registry_uri", sa.Text),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("batching", sa.JSON(none_as_null=True)),
    sa.Column("actor", sa.Text, nullable=False, server_default=""),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("served_at", sa.DateTime),
    sa.Column("ended_at", sa.DateTime),
    sa.Column("trial", sa.JSON(none_as_null=True)),
    sa.Column("golden", sa.Text),
    sa.Column("at_once", sa.Boolean, nullable=False, default=False),
    sa.Column("joins", sa.Text),
    sa.Column("stopped", sa.Text, nullable=False, server_default=""),
)

endpoints = sa.Table(
    "endpoints",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("traffic", sa.JSON, nullable=False),
    sa.Column("sticky", sa.String, nullable=False, server_default=""),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("updated_at", sa.DateTime, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("deployment", sa.String),
    sa.Column("revision", sa.Integer),
    sa.Column("endpoint", sa.String),
    sa.Column("actor", sa.Text, nullable=False, server_default=""),
)
