"""By what a caller stays with one deployment of an endpoint."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("endpoints", sa.Column("sticky", sa.String, nullable=False, server_default=""))
