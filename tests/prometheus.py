"""A Prometheus of a test's own, with the alerts of deploy/."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.owned import OwnProcess
from tests.process import ROOT
from tests.redis import free_port

DEPLOYED = ROOT / "deploy" / "prometheus"


def program(name: str) -> str:
    """Where `prometheus` or `promtool` is; skips the test where it is not."""
    found = shutil.which(name)
    if found is None:
        pytest.skip("prometheus is not installed: the dashboard and the alerts are not tested")
    return found


class OwnPrometheus(OwnProcess):
    """A prometheus that asks processes each half second, as job `duplex`.

    Args:
        ports: of their metrics, on this machine.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self._program = program("prometheus")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._directory = tempfile.TemporaryDirectory(prefix="prometheus")
        asked = [f"127.0.0.1:{port}" for port in ports]
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(DEPLOYED / "alerts.yml")],
            "scrape_configs": [{"job_name": "duplex", "static_configs": [{"targets": asked}]}],
        }
        self._file = Path(self._directory.name) / "prometheus.yml"
        self._file.write_text(json.dumps(config))  # JSON is YAML

    def start(self) -> None:
        """Start it; returns when it takes queries."""
        self._process = subprocess.Popen(
            [
                *(self._program, f"--config.file={self._file}"),
                *(f"--storage.tsdb.path={self._directory.name}/data",),
                *(f"--web.listen-address=127.0.0.1:{self.port}",),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout
        said = ""
        for line in self._process.stdout:
            said += line
            if "ready to receive web requests" in line:
                return
        raise AssertionError(f"prometheus did not start: {said}")

    def close(self) -> None:
        """End it for good, and remove its directory."""
        super().close()
        self._directory.cleanup()
