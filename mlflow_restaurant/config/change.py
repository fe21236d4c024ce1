"""Options of one change of a deployment."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from mlflow_restaurant.config.checks import Number
from mlflow_restaurant.errors import InvalidRequest


class ChangeOptions(BaseModel):
    """What holds for one change of a deployment only, given with ``-C key=value`` beside its settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = Field("", max_length=500, description="why the change is made; `history` shows it")
    wait: bool = Field(
        False,
        description="`true`: wait until another change of the deployment is done, instead of being refused",
    )
    allow_schema_change: bool = Field(
        False, description="`true`: the new model may take other input than the one that serves"
    )
    rollback: bool = Field(
        False,
        description="`true`: go back to the revision that served before, as `mlflow-restaurant rollback`",
    )
    revision: Annotated[int | None, Number] = Field(
        None, ge=1, description="with `rollback=true`: the revision to go back to"
    )

    def refuse_revision(self) -> None:
        """Refuse a revision without a rollback.

        Raises:
            InvalidRequest: there is one.
        """
        if self.revision is not None:
            raise InvalidRequest(
                "Config key 'revision' says where to roll back to: give rollback=true with it."
            )

    def refuse_rollback(self, why: str) -> None:
        """Refuse a rollback where there can be none.

        Raises:
            InvalidRequest: one is asked for.
        """
        if self.rollback or self.revision is not None:
            raise InvalidRequest(f"{why}; leave rollback and revision out.")
