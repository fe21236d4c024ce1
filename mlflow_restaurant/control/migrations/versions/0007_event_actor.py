"""Who made an event, and events found by their deployment or endpoint."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("events", sa.Column("actor", sa.Text, nullable=False, server_default=""))
    for column in ("deployment", "endpoint"):
        op.create_index(f"ix_events_{column}", "events", [column])
