"""What the health checks answer."""

from typing import Literal

from app.core.schemas import Schema


class Health(Schema):
    """Well; anything else is an error."""

    status: Literal["ok"] = "ok"
