"""Accounts and sessions: sign-up, log-in, refresh, log-out. Goes where a provider does its work."""

from app.features.accounts.commands import commands
from app.features.accounts.rest import router

__all__ = ["commands", "router"]
