"""Whether the process lives, and whether it is ready for work."""

from app.features.health.rest import router
from app.features.health.service import provide

__all__ = ["provide", "router"]
