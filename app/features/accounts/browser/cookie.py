"""The session cookie, and what shows that a page of ours has sent it."""

import hashlib
import hmac
import secrets
from datetime import timedelta

from starlette.requests import HTTPConnection
from starlette.responses import Response

from app.features.accounts.errors import CsrfFailed

# By its name browsers take it over TLS alone, for this host alone, and from no subdomain.
COOKIE = "__Host-session"


def new_secret() -> str:
    """What a session's cookie holds: 256 random bits."""
    return secrets.token_urlsafe(32)


def csrf_token(secret: str) -> str:
    """What a page has to send along with the cookie of this secret, which it cannot read."""
    return hmac.new(secret.encode(errors="replace"), b"csrf", hashlib.sha256).hexdigest()


def set_cookie(response: Response, secret: str, lifetime: timedelta) -> None:
    """Have the browser keep the cookie.

    SameSite=Strict: pages of elsewhere cannot send it at all. Nothing is lost by it, since a page
    of ours is the same for everybody and asks for what is somebody's once it is there.
    """
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(lifetime.total_seconds()),
        path="/",
        secure=True,
        httponly=True,
        samesite="strict",
    )


def clear_cookie(response: Response) -> None:
    """Have the browser forget the cookie."""
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")


def check_token(secret: str, given: str | None) -> None:
    """Raise CsrfFailed unless `given` is the CSRF token of a cookie."""
    if given is None:
        raise CsrfFailed("Send the CSRF token along with the cookie.")
    if not hmac.compare_digest(given.encode(errors="replace"), csrf_token(secret).encode()):
        raise CsrfFailed("The CSRF token is not the one of this session.")


def check_page(connection: HTTPConnection) -> None:
    """Raise CsrfFailed where a browser says that the page that asks is not ours, or an allowed one.

    A WebSocket has to say it. `*` among the allowed origins is not meant for who is signed in by
    cookie.
    """
    headers, scope = connection.headers, connection.scope
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
    if origin in connection.app.state.settings.allowed_origins and origin != "*":
        return
    if origin is None:
        if scope["type"] == "websocket" or site not in ("same-origin", "none"):
            raise CsrfFailed("The page that asks is not known.")
        return
    host = headers.get("host", "").lower()
    own = {f"https://{host}"}
    if scope["scheme"] in ("http", "ws"):  # or a proxy has ended TLS and does not say so
        own.add(f"http://{host}")
    if origin.lower() not in own or site != "same-origin":
        raise CsrfFailed("A page of elsewhere asks.")
