"""API keys: what somebody's programs come with."""

from app.features.accounts.keys.credential import by_key
from app.features.accounts.keys.rest import router

__all__ = ["by_key", "router"]
