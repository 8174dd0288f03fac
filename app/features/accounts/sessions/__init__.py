"""Sessions: log-in, refresh, log-out."""

from app.features.accounts.sessions.rest import router

__all__ = ["router"]
