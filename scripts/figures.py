"""Measures the figures of docs/figures.md on a clean clone of the last commit, and prints them."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 5


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def seconds_to_first_200(command: list[str], directory: Path) -> float:
    """Seconds from starting `command` until /health/ready answers; ends it as Ctrl-C does."""
    port = free_port()
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=os.environ | {"PORT": str(port)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while True:
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5).close()
                return time.monotonic() - started
            except (urllib.error.URLError, OSError):
                time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)


def packages(requirements: Path) -> int:
    """How many packages a requirements file pins."""
    return len(re.findall(r"^[A-Za-z0-9_.-]+(\[.*\])?==", requirements.read_text(), re.MULTILINE))


def main() -> None:
    """Clone, measure, print."""
    with tempfile.TemporaryDirectory() as directory:
        clone = Path(directory) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        print(f"packages: {packages(clone / 'requirements' / 'base.txt')} to run,", end=" ")
        print(f"{packages(clone / 'requirements' / 'dev.txt')} to develop")
        first = seconds_to_first_200(["make", "run"], clone)
        print(f"clean clone to the first page: {first:.0f} s")
        again = seconds_to_first_200(["make", "run"], clone)
        print(f"`make run` again to the first page: {again:.1f} s")
        serve = [str(clone / ".venv" / "bin" / "python"), "-m", "app", "serve"]
        starts = sorted(seconds_to_first_200(serve, clone) for _ in range(REPEATS))
        print(f"process start to the first 200: {starts[REPEATS // 2]:.2f} s (median of {REPEATS})")
        if "--tests" in sys.argv:
            started = time.monotonic()
            subprocess.run(["make", "test"], cwd=clone, check=True)
            print(
                f"`make test` after that, with what it installs: {time.monotonic() - started:.0f} s"
            )


if __name__ == "__main__":
    main()
