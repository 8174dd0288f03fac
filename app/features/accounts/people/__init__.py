"""People's accounts: sign-up, and what somebody changes of their own."""

from app.features.accounts.people.rest import router

__all__ = ["router"]
