"""Second factors: an authenticator, and the codes for when it is lost."""

from app.features.accounts.factors.rest import router

__all__ = ["router"]
