"""The server with the probe's routes, as the tests of the engine have it."""

from tests.realtime.conftest import (  # noqa: F401 - fixtures are found by their names
    probe,
    probe_server,
    probe_table,
    serve_module,
    serve_probe,
    shared_server,
)
