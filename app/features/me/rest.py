"""Who asks, over REST."""

from typing import Annotated

from fastapi import APIRouter, Depends

from app.core.auth import Principal, has_scope
from app.features.me.schemas import Me

router = APIRouter(tags=["me"])


@router.get("/me")
async def who(user: Annotated[Principal, Depends(has_scope())]) -> Me:
    """Who asks, as this service sees them: by an access token, a key or a cookie."""
    return Me.of(user)
