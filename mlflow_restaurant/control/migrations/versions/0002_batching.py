"""Whether the requests of a revision are merged, and why."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("revisions", sa.Column("batching", sa.JSON(none_as_null=True)))
