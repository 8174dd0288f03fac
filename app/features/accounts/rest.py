"""Accounts and sessions over REST."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.security import OAuth2PasswordRequestForm

from app.core.auth import CurrentUser
from app.core.errors import Overloaded, raises
from app.features.accounts.errors import (
    AccountGone,
    EmailTaken,
    RefreshRefused,
    RefreshReused,
    WrongCredentials,
)
from app.features.accounts.schemas import Account, RefreshToken, SignUp, TokenPair
from app.features.accounts.service import Accounts

router = APIRouter(tags=["accounts"])


@router.post("/accounts", status_code=201)
@raises(EmailTaken, Overloaded)
async def sign_up(accounts: Accounts, new: SignUp) -> Account:
    """Create an account."""
    return await accounts.sign_up(new)


@router.get("/accounts/me")
@raises(AccountGone)
async def me(accounts: Accounts, user: CurrentUser) -> Account:
    """The account of whoever asks."""
    return await accounts.account(user.user_id)


@router.post("/auth/login")
@raises(WrongCredentials, Overloaded)
async def log_in(
    accounts: Accounts, form: Annotated[OAuth2PasswordRequestForm, Depends()]
) -> TokenPair:
    """Begin a session with an e-mail address and a password (RFC 6749 section 4.3)."""
    return await accounts.log_in(form.username, form.password)


@router.post("/auth/refresh")
@raises(RefreshRefused, RefreshReused)
async def refresh(accounts: Accounts, given: RefreshToken) -> TokenPair:
    """Trade a refresh token for a new pair; each refresh token is good for once."""
    return await accounts.refresh(given.refresh_token)


@router.post("/auth/logout", status_code=204)
async def log_out(accounts: Accounts, given: RefreshToken) -> None:
    """End the session that a refresh token belongs to."""
    await accounts.log_out(given.refresh_token)
