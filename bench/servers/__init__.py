"""The services that are measured, each a program: `python -m bench.servers.<name>`.

A program binds a free port, prints one line of JSON with it and with the headers that its clients
have to send, and serves until it is told to end.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import uvicorn

from app.core.settings import Settings
from app.server import listen

#: What its channels and keys in Redis begin with: those of other runs are none of its business.
PREFIX = os.environ.get("BENCH_PREFIX", "bench")


def serve(server: uvicorn.Server, headers: Mapping[str, str] | None = None) -> None:
    """Say where `server` is, and run it."""
    sock = listen("127.0.0.1", 0)
    print(json.dumps({"port": sock.getsockname()[1], "headers": headers or {}}), flush=True)
    server.run(sockets=[sock])


def peer(app: Any) -> uvicorn.Server:
    """uvicorn for a peer: the WebSocket protocol of app.server, and no compression there either."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=1,
        )
    )


def settings_for(database: str, redis: str = "", *, pool_size: int = 10) -> Settings:
    """Settings of production; without Redis where its address is empty."""
    values: dict[str, Any] = {
        "environment": "production",
        "secret_key": "of-the-benchmark-and-of-nothing-else",
        "smtp_url": "smtp://127.0.0.1:9",  # production wants one; nothing is mailed
        "database_url": database,
        "database_pool_size": pool_size,
        "redis_url": redis or None,
        "redis_prefix": PREFIX,
        "log_level": "warning",
    }
    return Settings(_env_file=None, **values)
