"""What browsers' sessions give."""

from app.core.schemas import Schema
from app.features.accounts.people.schemas import Account


class BrowserSession(Schema):
    """Who is signed in by the cookie, and what a page sends as `X-CSRF-Token` along with it."""

    csrf_token: str
    account: Account
