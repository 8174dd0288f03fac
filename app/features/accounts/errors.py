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


class LinkRefused(AppError):
    """The mailed link is unknown, was used, or is too old; which of them is not said."""

    status = 410
    code = "accounts.link_refused"
    title = "This link is not good any more."
    error_code = 2010


class WrongPassword(AppError):
    """The password that was asked for beside the token, to change the account, is wrong."""

    status = 403
    code = "accounts.wrong_password"
    title = "The password is wrong."
    error_code = 2011


class AccountLocked(AppError):
    """Too many wrong passwords or codes in a row: the account takes none for a while."""

    status = 429
    code = "accounts.locked"
    title = "Too many wrong passwords or codes; try again later."
    error_code = 2020
    retryable = True


class SecondFactorRequired(AppError):
    """The password is right, and the account has a second factor: send its code as well."""

    status = 401
    code = "accounts.second_factor_required"
    title = "Give a code of your authenticator too."
    error_code = 2021
    headers = {"WWW-Authenticate": "Bearer"}


class WrongCode(AppError):
    """The code is of another moment, was used before, or is not one at all; which is not said."""

    status = 401
    code = "accounts.wrong_code"
    title = "The code is wrong or has been used."
    error_code = 2022
    headers = {"WWW-Authenticate": "Bearer"}


class SecondFactorInForce(AppError):
    """The account has a second factor; it has to be removed before another is set up."""

    status = 409
    code = "accounts.second_factor_in_force"
    title = "There is a second factor already."
    error_code = 2023


class NoSecondFactor(AppError):
    """The account has no second factor, or none that was begun to be set up."""

    status = 404
    code = "accounts.no_second_factor"
    title = "There is no second factor."
    error_code = 2024


class KeyNotFound(AppError):
    """Whoever asks has no API key of this number, or has revoked it."""

    status = 404
    code = "accounts.key_not_found"
    title = "There is no such key."
    error_code = 2030


class TooManyKeys(AppError):
    """Somebody has as many API keys as one may have."""

    status = 409
    code = "accounts.too_many_keys"
    title = "There are as many keys as there may be."
    error_code = 2031


class CsrfFailed(AppError):
    """A session cookie came without what shows that a page of ours sent it, or from elsewhere."""

    status = 403
    code = "csrf_failed"
    title = "This does not come from a page of ours."
    never_by = frozenset({"GET", "HEAD", "OPTIONS"})


class AccountNotFound(AppError):
    """An administrator asks for an account that there is not, or not any more."""

    status = 404
    code = "accounts.not_found"
    title = "There is no such account."
    error_code = 2040


class NotToOneself(AppError):
    """Administrators do not disable themselves, nor take their own role; another one does."""

    status = 409
    code = "accounts.not_to_oneself"
    title = "Another administrator has to do this."
    error_code = 2041


class LastAdministrator(AppError):
    """Nobody would be left who administers; make somebody else an administrator first."""

    status = 409
    code = "accounts.last_administrator"
    title = "This is the last administrator."
    error_code = 2042


class ProviderNotFound(AppError):
    """There is no OpenID provider of this name to log in with."""

    status = 404
    code = "accounts.provider_not_found"
    title = "There is no such provider."
    error_code = 2050


class AttemptRefused(AppError):
    """What was begun at a provider is too old, or was begun for or by somebody else."""

    status = 410
    code = "accounts.attempt_refused"
    title = "This cannot be gone on with; begin again."
    error_code = 2051


class ProviderRefused(AppError):
    """The provider does not take what it is said to have sent, or answers with what is not good."""

    status = 403
    code = "accounts.provider_refused"
    title = "The provider does not confirm this; begin again."
    error_code = 2052


class AddressNotVerified(AppError):
    """Whoever comes from a provider for the first time needs an address that it has verified."""

    status = 403
    code = "accounts.address_not_verified"
    title = "The provider has not verified your e-mail address."
    error_code = 2053


class LinkFirst(AppError):
    """There is an account with the provider's address, which only its owner may link to it."""

    status = 409
    code = "accounts.link_first"
    title = "There is an account with your address: log in to it, and link it to the provider."
    error_code = 2054


class ProofRefused(AppError):
    """The proof was used, is too old or is none, or the account takes no log-in now."""

    status = 401
    code = "accounts.proof_refused"
    title = "This does not log you in any more; begin again."
    error_code = 2055
    headers = {"WWW-Authenticate": "Bearer"}


class IdentityTaken(AppError):
    """Whoever somebody is at the provider is linked to another account."""

    status = 409
    code = "accounts.identity_taken"
    title = "This is linked to another account."
    error_code = 2056


class IdentityNotFound(AppError):
    """Whoever asks has no linked identity of this number."""

    status = 404
    code = "accounts.identity_not_found"
    title = "Nothing of this number is linked."
    error_code = 2057


class LastIdentity(AppError):
    """Without a password it is the only way to log in; choose a password first."""

    status = 409
    code = "accounts.last_identity"
    title = "This is your only way to log in; choose a password first."
    error_code = 2058
