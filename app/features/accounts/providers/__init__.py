"""Logging in at OpenID providers, and linking accounts to them."""

from app.features.accounts.providers.attempts import Attempts
from app.features.accounts.providers.client import Providers
from app.features.accounts.providers.rest import router

__all__ = ["Attempts", "Providers", "router"]
