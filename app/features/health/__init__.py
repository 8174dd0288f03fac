"""Whether the process lives, and whether it is ready for work."""

from app.features.health.rest import router

__all__ = ["router"]
