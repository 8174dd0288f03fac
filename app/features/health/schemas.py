"""What the health checks answer."""

from typing import Literal

from app.core.schemas import Schema


class Health(Schema):
    """Well."""

    status: Literal["ok"] = "ok"


class Degraded(Schema):
    """Fit for requests, with something slower than it should be; anything worse is an error."""

    status: Literal["degraded"] = "degraded"
    detail: str
