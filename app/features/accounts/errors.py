"""Errors of accounts and sessions."""

from app.core.errors import AppError


class EmailTaken(AppError):
    """An account with this e-mail address exists, perhaps in another spelling."""

    status = 409
    code = "accounts.email_taken"
    title = "There is an account with this e-mail address."
    error_code = 2001


class WrongCredentials(AppError):
    """The e-mail address is unknown or the password wrong; which of them is not said."""

    status = 401
    code = "accounts.wrong_credentials"
    title = "The e-mail address or the password is wrong."
    error_code = 2002
    headers = {"WWW-Authenticate": "Bearer"}


class RefreshRefused(AppError):
    """The refresh token is unknown or too old, or its session has ended."""

    status = 401
    code = "accounts.refresh_refused"
    title = "The session has ended; sign in again."
    error_code = 2003
    headers = {"WWW-Authenticate": "Bearer"}


class RefreshReused(AppError):
    """The refresh token was used before: somebody has a copy, so the whole session ends."""

    status = 401
    code = "accounts.refresh_reused"
    title = "A refresh token was used twice; the session has been ended."
    error_code = 2004
    headers = {"WWW-Authenticate": "Bearer"}


class AccountGone(AppError):
    """The token is valid, and the account it speaks of no longer exists."""

    status = 404
    code = "accounts.gone"
    title = "This account does not exist any more."
    error_code = 2005
