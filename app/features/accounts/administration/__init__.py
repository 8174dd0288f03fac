"""Administration: what an administrator, or an operator by a command, does with accounts."""

from app.features.accounts.administration.rest import router

__all__ = ["router"]
