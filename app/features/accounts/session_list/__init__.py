"""Where somebody is signed in, and ending it there."""

from app.features.accounts.session_list.rest import router

__all__ = ["router"]
