"""A FastAPI service in which REST and WebSockets are equals."""
