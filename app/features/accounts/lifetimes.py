"""How long a session lasts: so long unused, and so long altogether, whatever its use."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """SESSION_DAYS and SESSION_MAX_DAYS (ASVS 5.0, 7.3.1 and 7.3.2)."""

    unused: timedelta
    longest: timedelta

    def end(self, begun: datetime, used: datetime) -> datetime:
        """When a session ends that was begun and last used at these moments."""
        return min(used + self.unused, begun + self.longest)
