"""Sessions over REST."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form
from fastapi.security import OAuth2PasswordRequestForm

from app.core.auth import CurrentUser
from app.core.errors import Overloaded, raises
from app.features.accounts.codes import MAX_CODE
from app.features.accounts.errors import (
    RefreshRefused,
    RefreshReused,
    SecondFactorRequired,
    WrongCode,
    WrongCredentials,
)
from app.features.accounts.sessions.schemas import RefreshToken, TokenPair
from app.features.accounts.sessions.service import Sessions
from app.features.accounts.throttles import COUNTED_LOG_IN

router = APIRouter(tags=["sessions"])


@router.post("/auth/login", dependencies=COUNTED_LOG_IN)
@raises(WrongCredentials, SecondFactorRequired, WrongCode, Overloaded)
async def log_in(
    sessions: Sessions,
    form: Annotated[OAuth2PasswordRequestForm, Depends()],
    otp: Annotated[
        str | None,
        Form(max_length=MAX_CODE, description="a code of the second factor, or a recovery code"),
    ] = None,
) -> TokenPair:
    """Begin a session with an e-mail address and a password (RFC 6749 section 4.3).

    Whoever has a second factor is told so once the password is right, and sends both again with a
    code.
    """
    return await sessions.log_in(form.username, form.password, otp)


@router.post("/auth/refresh")
@raises(RefreshRefused, RefreshReused)
async def refresh(sessions: Sessions, given: RefreshToken) -> TokenPair:
    """Trade a refresh token for a new pair; each refresh token is good for once."""
    return await sessions.refresh(given.refresh_token)


@router.post("/auth/logout", status_code=204)
async def log_out(sessions: Sessions, given: RefreshToken) -> None:
    """End the session that a refresh token belongs to, with its access tokens and sockets."""
    await sessions.log_out(given.refresh_token)


@router.post("/auth/logout/everywhere", status_code=204)
async def log_out_everywhere(sessions: Sessions, user: CurrentUser) -> None:
    """End all sessions of whoever asks, on every device, with their access tokens and sockets."""
    await sessions.log_out_everywhere(user)
