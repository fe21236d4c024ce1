"""Who made a revision, why, and from when to when it served."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for name in ("actor", "reason"):
        op.add_column("revisions", sa.Column(name, sa.Text, nullable=False, server_default=""))
    for name in ("served_at", "ended_at"):
        op.add_column("revisions", sa.Column(name, sa.DateTime))
