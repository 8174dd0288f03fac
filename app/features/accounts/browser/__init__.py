"""Sessions of browsers: kept in a cookie that no script can read."""

from app.features.accounts.browser.credential import by_cookie
from app.features.accounts.browser.rest import router

__all__ = ["by_cookie", "router"]
