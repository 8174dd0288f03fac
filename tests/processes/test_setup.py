"""scripts/setup.py: what it installs, when it does, and what it says where it cannot."""

import ast
import ctypes
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "scripts" / "setup.py"
BENCH = "../bench/requirements.txt"  # as seen from requirements/
OLD = ["python3.6", "python3.7", "python3.8", "python3.9", "python3.10"]


class Clone:
    """A directory with the set-up script and requirements of the test's own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.stamp = place / ".venv" / "installed.json"
        for folder in ("scripts", "requirements"):
            (place / folder).mkdir(parents=True)
        shutil.copy(SETUP, place / "scripts")
        self.requires("")

    def requires(self, *lines: str) -> None:
        """Write the requirements."""
        for name in ("base.txt", "dev.txt"):
            (self.place / "requirements" / name).write_text("".join(f"{x}\n" for x in lines))

    def command(self, python: str = sys.executable, before: str = "") -> list[str]:
        """What runs the script, by `python` and after the statements `before`."""
        if not before:
            return [python, str(self.place / "scripts" / "setup.py")]
        start = f"import runpy, sys; {before}; sys.argv = ['scripts/setup.py']; "
        return [python, "-c", start + "runpy.run_path('scripts/setup.py', run_name='__main__')"]

    def run(
        self,
        python: str = sys.executable,
        before: str = "",
        confine: Callable[[], None] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run the script to its end."""
        return subprocess.run(
            self.command(python, before),
            cwd=self.place,
            env=self.environment(),
            preexec_fn=confine,
            capture_output=True,
            text=True,
            check=False,
        )

    def environment(self, index: str = "http://127.0.0.1:1/simple") -> dict[str, str]:
        """The environment, with no package index but `index`."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
        own = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_INDEX_URL": index}
        return kept | own | {"PYTHONDONTWRITEBYTECODE": "1"}

    def has(self, module: str) -> bool:
        """Whether a module is installed, and compiled."""
        return bool(list(self.place.glob(f".venv/lib/*/site-packages/__pycache__/{module}.*.pyc")))


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A clone in which nothing is installed."""
    return Clone(tmp_path / "clone")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone whose first set-up was killed while it installed, and whose second came to its end.

    Several tests use it, and none makes it less than installed: a new .venv takes seconds.
    """
    place = tmp_path_factory.mktemp("installed")
    clone = Clone(place / "clone")
    clone.requires(f"absent==1 --hash=sha256:{'0' * 64}")
    with silent_index() as (index, asked):
        first = subprocess.Popen(
            clone.command(),
            cwd=clone.place,
            env=clone.environment(index),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        asked()
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert not clone.stamp.exists()
    clone.requires(wheel(place, "one"))
    second = clone.run()
    assert second.returncode == 0, second.stderr
    return clone


@pytest.fixture
def outdated(clone: Clone, installed: Clone) -> Clone:
    """A clone of its own with an environment that lacks what its requirements ask for."""
    shutil.copytree(installed.place / ".venv", clone.place / ".venv", symlinks=True)
    clone.requires(f"absent==1 --hash=sha256:{'0' * 64}")
    return clone


class TestWhatItInstalls:
    def test_after_an_interrupted_run(self, installed: Clone) -> None:
        """A set-up that was killed half-way is done again by the next one, and compiled."""
        assert installed.has("one")

    def test_second_run(self, installed: Clone) -> None:
        """Where everything is installed it does nothing and says nothing."""
        before = installed.stamp.stat().st_mtime_ns
        done = installed.run()
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert installed.stamp.stat().st_mtime_ns == before

    def test_after_a_pull(self, installed: Clone) -> None:
        """Where the requirements have changed it installs what is new, and keeps what is there."""
        place = installed.place.parent
        installed.requires(wheel(place, "one"), wheel(place, "two"))
        done = installed.run()
        assert done.returncode == 0, done.stderr
        assert "making" not in done.stdout.lower()
        assert installed.has("one")
        assert installed.has("two")


class TestWhatStandsInTheWay:
    def test_an_old_python(self, clone: Clone) -> None:
        """A Python that is too old is told so, by its version and the one that is needed."""
        done = clone.run(before="sys.version_info = (3, 9, 2, 'final', 0)")
        assert "this is Python 3.9, and 3.11 or newer is needed" in refusal(done, "install one")

    def test_a_real_old_python(self, clone: Clone) -> None:
        """Every Python since 3.6 can read the script, so that it can say that it is too old."""
        ast.parse(SETUP.read_text(), feature_version=(3, 7))
        for python in old_pythons():
            assert "or newer is needed" in refusal(clone.run(python), "install one"), python

    def test_no_venv_module(self, clone: Clone) -> None:
        """A Python without venv, as Debian splits it off, is told which package has it."""
        done = clone.run(before="sys.modules['ensurepip'] = None")
        assert "no venv module" in refusal(done, "apt install python3-venv")

    def test_no_network(self, outdated: Clone) -> None:
        """An index that cannot be reached is named as what is missing, and so is the way out."""
        told = refusal(outdated.run(), "connect this machine to the network")
        assert "cannot be reached" in told
        assert not outdated.stamp.exists()

    def test_a_wrong_hash(self, outdated: Clone) -> None:
        """A package that is not the one that was pinned is refused, and pip's words are kept."""
        package = wheel(outdated.place, "other")
        outdated.requires(re.sub(r"sha256:\w+", f"sha256:{'0' * 64}", package))
        told = refusal(outdated.run(), "put right what it says in .venv/setup.log")
        assert "requirements/base.txt" in told
        assert "DO NOT MATCH" in (outdated.place / ".venv" / "setup.log").read_text()
        assert not outdated.has("other")

    def test_a_path_that_no_environment_can_have(self, tmp_path: Path) -> None:
        """A directory whose name would divide the PATH is refused, with what to do."""
        clone = Clone(tmp_path / f"a{os.pathsep}b")
        refusal(clone.run(), f"a path without `{os.pathsep}`")

    def test_a_directory_that_is_not_writable(self, clone: Clone) -> None:
        """A directory in which nothing can be made is named, with how to make it one's own."""
        clone.place.chmod(0o555)
        done = clone.run(confine=obey_permissions)
        clone.place.chmod(0o755)
        assert f"{clone.place / '.venv'} cannot be written" in refusal(done, "chown")

    def test_a_file_in_the_place_of_the_environment(self, clone: Clone) -> None:
        """A file called .venv is not removed unasked."""
        (clone.place / ".venv").write_text("mine")
        assert ".venv is a file" in refusal(clone.run(), "remove it")
        assert (clone.place / ".venv").read_text() == "mine"

    def test_an_unknown_option(self, clone: Clone) -> None:
        """An option that it does not have is refused, with those that it has."""
        done = subprocess.run(
            [*clone.command(), "--prod"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert done.stderr == "usage: python3 scripts/setup.py [--dev]\n"


class TestPins:
    def test_cover_what_is_asked_for(self) -> None:
        """Every dependency of pyproject.toml is pinned, and the tests run on the same versions."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        base, dev = pins("base.txt"), pins("dev.txt")
        assert {name_of(r) for r in project["project"]["dependencies"]} <= base.keys()
        assert {name_of(r) for r in project["dependency-groups"]["dev"]} <= dev.keys()
        assert base.items() <= dev.items()

    def test_of_the_benchmark_are_those_of_the_service(self) -> None:
        """What is measured beside the peers is the service on the versions that it runs on."""
        asked = re.findall(r"^\w.*", (ROOT / "bench" / "requirements.in").read_text(), re.MULTILINE)
        bench = pins(BENCH)
        assert pins("base.txt").items() <= bench.items()
        assert {name_of(r).replace("_", "-") for r in asked} <= bench.keys()

    @pytest.mark.parametrize("name", ["base.txt", "dev.txt", BENCH])
    def test_name_no_place(self, name: str) -> None:
        """A pin says which package, by its hash, and not where it is to be had."""
        text = (ROOT / "requirements" / name).read_text()
        assert not re.search(r"://|^-|file:", text, re.MULTILINE)
        assert all(f"{pin} \\\n    --hash=" in text for pin in pinned(text))


def refusal(done: "subprocess.CompletedProcess[str]", remedy: str) -> str:
    """What a set-up said that failed: one sentence, with the remedy in it."""
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stderr.startswith("setup: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert remedy in done.stderr
    return done.stderr


def obey_permissions() -> None:
    """Make this process one that permissions bind, which they do not bind root."""
    if os.geteuid() == 0:
        drop_from_bounding_set, override_permissions = 24, 1  # prctl(2), capabilities(7)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(drop_from_bounding_set, override_permissions, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "CAP_DAC_OVERRIDE cannot be dropped")


def old_pythons() -> list[str]:
    """The Pythons on this machine that are too old, 3.6 at least: none on many machines."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [shutil.which(name) or "" for name in OLD]
    found += [str(file) for name in OLD for file in pyenv.glob(f"versions/*/bin/{name}")]
    return [python for python in found if python and starts(python)]


def starts(python: str) -> bool:
    """Whether this really is a Python: pyenv puts scripts of such names on the PATH."""
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


@contextmanager
def silent_index() -> Iterator[tuple[str, Callable[[], None]]]:
    """A package index that takes a request and never answers: its address, and a wait for one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        taken: list[socket.socket] = []
        yield (
            f"http://127.0.0.1:{server.getsockname()[1]}/simple",
            lambda: taken.append(server.accept()[0]),
        )
        for connection in taken:
            connection.close()


def wheel(place: Path, name: str) -> str:
    """Make a package of one module; returns the line that requires it."""
    file = place / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return f"{file.as_uri()} --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


def pinned(text: str) -> list[str]:
    """The pins in a file of requirements, with their conditions."""
    return re.findall(r"^(\S+==.*?) \\\\$", text, re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    """The version of each package that a file of requirements pins."""
    text = (ROOT / "requirements" / name).read_text()
    return dict(re.findall(r"^([\w.-]+)(?:\[.*\])?==(\S+)", text, re.MULTILINE))


def name_of(requirement: str) -> str:
    """The name in a requirement of pyproject.toml."""
    return re.split(r"[^\w.-]", requirement)[0].lower()
