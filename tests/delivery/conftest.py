"""The engines: each kind of cluster that the service can be run as."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest
import redis

from tests.conftest import IN_CI
from tests.delivery.cluster import Cluster
from tests.delivery.cluster import cluster as clusters

REDIS = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379")
ENGINES = ("sqlite-memory", "postgresql-memory", "postgresql-redis")


def _redis_variables() -> dict[str, str]:
    """Settings for Redis, in a part of it that is this cluster's own."""
    try:
        redis.Redis.from_url(REDIS).ping()
    except redis.ConnectionError:
        if IN_CI:
            raise
        pytest.skip("Redis does not answer (TEST_REDIS_URL): only one process is tested")
    return {"REDIS_URL": REDIS, "REDIS_PREFIX": f"test-{uuid4().hex[:12]}"}


@pytest.fixture(scope="module", params=ENGINES)
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A cluster on each engine; with Redis it is two processes."""
    database, backplane = request.param.split("-")
    with ExitStack() as stack:
        if database == "sqlite":
            file = tmp_path_factory.mktemp("cluster") / "cluster.db"
            shutil.copy(request.getfixturevalue("migrated_sqlite"), file)
            url = f"sqlite:///{file}"
        else:
            url = stack.enter_context(request.getfixturevalue("postgresql").one())
        variables = _redis_variables() if backplane == "redis" else {}
        made = stack.enter_context(clusters(url, 2 if variables else 1, **variables))
        asyncio.run(made.start())
        yield made
