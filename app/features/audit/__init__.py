"""The audit log, read by administrators; app/core/audit.py writes it."""

from app.features.audit.jobs import jobs
from app.features.audit.rest import router

__all__ = ["jobs", "router"]
