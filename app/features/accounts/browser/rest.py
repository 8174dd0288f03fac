"""Browsers' sessions over REST."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.security import OAuth2PasswordRequestForm

from app.core.auth import CurrentUser
from app.core.errors import AuthenticationFailed, Overloaded, raises
from app.features.accounts.browser.cookie import (
    COOKIE,
    check_page,
    check_token,
    clear_cookie,
    csrf_token,
    set_cookie,
)
from app.features.accounts.browser.credential import CSRF_HEADER
from app.features.accounts.browser.schemas import BrowserSession
from app.features.accounts.browser.service import BrowserSessions
from app.features.accounts.codes import MAX_CODE
from app.features.accounts.errors import (
    AccountGone,
    CsrfFailed,
    SecondFactorRequired,
    WrongCode,
    WrongCredentials,
)
from app.features.accounts.people.service import People
from app.features.accounts.sessions.schemas import TokenPair
from app.features.accounts.sessions.service import Sessions
from app.features.accounts.throttles import COUNTED_LOG_IN

router = APIRouter(prefix="/auth/cookie", tags=["sessions"])


@router.post("", status_code=201, dependencies=COUNTED_LOG_IN)
@raises(WrongCredentials, SecondFactorRequired, WrongCode, Overloaded, AccountGone, CsrfFailed)
async def log_in(
    request: Request,
    response: Response,
    sessions: Sessions,
    browser: BrowserSessions,
    people: People,
    form: Annotated[OAuth2PasswordRequestForm, Depends()],
    otp: Annotated[
        str | None,
        Form(max_length=MAX_CODE, description="a code of the second factor, or a recovery code"),
    ] = None,
) -> BrowserSession:
    """Begin a session in a cookie, which no script can read: for pages of this service.

    A page of elsewhere cannot sign somebody in here.
    """
    check_page(request)
    pair = await sessions.log_in(form.username, form.password, otp)
    return await kept(response, pair, browser, people)


@router.get("")
@raises(AccountGone)
async def read(
    request: Request,
    response: Response,
    user: CurrentUser,
    people: People,
    browser: BrowserSessions,
) -> BrowserSession:
    """Who is signed in by the cookie, and the CSRF token; the browser keeps the cookie longer."""
    secret = request.cookies.get(COOKIE)
    if secret is None or "authorization" in request.headers:
        raise AuthenticationFailed("There is no session cookie.")
    account = await people.account(user.user_id)
    set_cookie(response, secret, await browser.left(secret))
    return BrowserSession(csrf_token=csrf_token(secret), account=account)


@router.delete("", status_code=204)
@raises(CsrfFailed)
async def log_out(request: Request, response: Response, browser: BrowserSessions) -> None:
    """End the session of the cookie, with its sockets, and have the browser forget it."""
    check_page(request)
    secret = request.cookies.get(COOKIE)
    if secret is not None and await browser.is_running(secret):
        check_token(secret, request.headers.get(CSRF_HEADER))
        await browser.log_out(secret)
    clear_cookie(response)


async def kept(
    response: Response, pair: TokenPair, browser: BrowserSessions, people: People
) -> BrowserSession:
    """Have the browser keep a session that has just begun in a cookie. Raises AccountGone."""
    secret, user_id = await browser.keep(pair)
    account = await people.account(user_id)
    set_cookie(response, secret, browser.sessions.lifetimes.unused)
    return BrowserSession(csrf_token=csrf_token(secret), account=account)
