"""What the health checks answer."""

from typing import Literal

from pydantic import Field

from app.core.schemas import Schema

State = Literal["ok", "degraded", "failed"]


class Health(Schema):
    """Well."""

    status: Literal["ok"] = "ok"


class Checks(Schema):
    """How each thing that requests need was, a second ago at most."""

    accepting: State = Field(description="failed: the process is about to end.")
    database: State = Field(description="failed: it does not answer.")
    migrations: State = Field(description="failed: one that this code needs is missing.")
    backplane: State = Field(description="degraded: events of other processes come late.")
    provider: State = Field(
        description="Of tokens. degraded: its newest keys may not be known; failed: none are."
    )


class Ready(Schema):
    """Fit for requests; degraded where something is slower than it should be."""

    status: Literal["ok", "degraded"]
    checks: Checks
    detail: str = ""
