"""Why a revision was given up, which is known before all of it is undone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("revisions", sa.Column("stopped", sa.Text, nullable=False, server_default=""))
