"""Tickets: a way in for WebSocket clients that can set nothing but an address."""

from app.features.tickets.rest import router

__all__ = ["router"]
