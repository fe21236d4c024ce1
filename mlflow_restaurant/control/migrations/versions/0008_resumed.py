"""What a rollout needs to be resumed as it was begun: whether it is tried first, and the endpoint that is joined."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("revisions", sa.Column("at_once", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("revisions", sa.Column("joins", sa.Text))
