"""The list of sessions over REST."""

import re
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BeforeValidator

from app.core.auth import CurrentUser
from app.core.errors import NotFound
from app.features.accounts.session_list.schemas import SessionList
from app.features.accounts.session_list.service import OwnSessions

router = APIRouter(prefix="/sessions", tags=["sessions"])


def _canonical(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{32}", value):
        raise NotFound
    return value


SessionId = Annotated[str, Path(examples=["0" * 32]), BeforeValidator(_canonical)]


@router.get("")
async def listed(own: OwnSessions, user: CurrentUser) -> SessionList:
    """Where whoever asks is signed in; of very many those that were used last."""
    return await own.listed(user)


@router.delete("/{session_id}", status_code=204)
async def end(own: OwnSessions, user: CurrentUser, session_id: SessionId) -> None:
    """End one session of whoever asks, with its access tokens and sockets."""
    await own.end(user, session_id)


@router.delete("", status_code=204)
async def end_others(own: OwnSessions, user: CurrentUser) -> None:
    """End all other sessions of whoever asks, with their access tokens and sockets."""
    await own.end_others(user)
