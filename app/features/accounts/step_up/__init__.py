"""Step-up: a new proof of who asks, for what takes a fresh one."""

from app.features.accounts.step_up.rest import router

__all__ = ["router"]
