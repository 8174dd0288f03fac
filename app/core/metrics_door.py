"""Where Prometheus reads what was counted: an address of its own, never the public one."""

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Self

from prometheus_client import CollectorRegistry, start_wsgi_server
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from app.core.metrics import PLACE, REGISTRY
from app.core.settings import Settings

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own


@contextmanager
def metrics_door(settings: Settings, registry: CollectorRegistry = REGISTRY) -> Iterator[None]:
    """Serve what `registry` has at METRICS_HOST and METRICS_PORT, in a thread, for this block.

    Does nothing where METRICS_PORT is 0. Raises OSError, before the block, where the address
    cannot be had.
    """
    if not settings.metrics_port:
        yield
        return
    server, thread = start_wsgi_server(settings.metrics_port, settings.metrics_host, registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class SharedValues:
    """What several workers have counted, in files of a directory that their parent has and reads.

    Each place has its files: the worker that comes after another goes on counting in them.
    """

    def __enter__(self) -> Self:
        self._directory = TemporaryDirectory(prefix="duplex-metrics-")
        self.registry = CollectorRegistry()
        MultiProcessCollector(self.registry, path=self._directory.name)  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()

    def environment(self, place: int) -> dict[str, str]:
        """What a worker finds in its environment, for its values to be in the place's files."""
        return {PLACE: str(place), DIRECTORY: self._directory.name}

    def ended(self, place: int) -> None:
        """Forget the gauges of a worker that has ended; what it has counted stays."""
        mark_process_dead(place, self._directory.name)  # type: ignore[no-untyped-call]
