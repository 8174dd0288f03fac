"""Who asks, whoever says so: accounts here, or a provider."""

from app.features.me.rest import router

__all__ = ["router"]
