"""Makes .venv and installs the pinned requirements into it: `python3 scripts/setup.py [--dev]`.

A second run costs nothing; after the requirements have changed it installs what is new, and an
interrupted run is done again. It needs the standard library alone, and is written so that Pythons
from 3.6 on can read it: they are told what is wrong.
"""

import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

NEEDED = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.json"
LOG = VENV / "setup.log"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
# What pip says of an index that is not there, and of one that goes away.
UNREACHABLE = re.compile(r"from versions: none|HTTP error \d|(Timeout|Connection|SSL)Error")


class SetupError(Exception):
    """What stands in the way, in one sentence that names the remedy."""


def main(arguments: "list[str]") -> int:
    """Set up, say what was done, and give the exit code."""
    dev = "--dev" in arguments
    if set(arguments) - {"--dev"}:
        print("usage: python3 scripts/setup.py [--dev]", file=sys.stderr)
        return 2
    try:
        check_python()
        install(ROOT / "requirements" / ("dev.txt" if dev else "base.txt"))
    except SetupError as error:
        print("setup: {}".format(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; run it again to finish.", file=sys.stderr)
        return 130
    return 0


def check_python() -> None:
    """Raise SetupError unless this Python can run the service and make a virtual environment."""
    if sys.version_info < NEEDED:
        raise SetupError(
            "this is Python {}.{}, and {}.{} or newer is needed: install one and name it, "
            "as in `make run PYTHON=python3.13`.".format(*(sys.version_info[:2] + NEEDED))
        )
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        raise SetupError(
            "this Python has no venv module: install it (on Debian and Ubuntu "
            "`sudo apt install python3-venv`) and run this again."
        )


def install(requirements: Path) -> None:
    """Bring .venv up to `requirements`, unless its stamp says that it is."""
    stamp = read_stamp()
    wanted = digest(requirements)
    if stamp.get(requirements.name) == wanted:
        return
    try:
        if not stamp:
            print("Making a virtual environment in .venv ...", flush=True)
            make_venv()
        print("Installing {} ...".format(requirements.relative_to(ROOT)), flush=True)
        # No stamp while it installs: a run that is cut short begins anew.
        if STAMP.exists():
            STAMP.unlink()
        pip_install(requirements)
        stamp = {"python": interpreter(), "base.txt": digest(ROOT / "requirements/base.txt")}
        stamp[requirements.name] = wanted
        STAMP.write_text(json.dumps(stamp, indent=2) + "\n")
    except OSError as error:
        raise SetupError(why_not_written(error)) from error


def read_stamp() -> "dict[str, str]":
    """What is installed in .venv, or nothing if it is missing, half made or another Python's."""
    try:
        stamp = json.loads(STAMP.read_text())  # type: dict[str, str]
    except (OSError, ValueError):
        return {}
    return stamp if stamp.get("python") == interpreter() and PYTHON.exists() else {}


def interpreter() -> str:
    """The Python that .venv is made from, so that a change of it is seen."""
    return "{} {}.{}".format(sys.base_prefix, *sys.version_info[:2])


def make_venv() -> None:
    """Make an empty .venv, in place of what is left of an older one."""
    import venv  # noqa: PLC0415 - not there on every machine: see check_python

    if VENV.is_dir():
        shutil.rmtree(str(VENV))
    elif VENV.exists():
        raise SetupError("{} is a file: remove it and run this again.".format(VENV))
    try:
        venv.create(str(VENV), with_pip=True)
    except subprocess.CalledProcessError as error:
        raise SetupError(
            "this Python could not put pip into a virtual environment: install its venv package "
            "(on Debian and Ubuntu `sudo apt install python3-venv`) and run this again."
        ) from error
    except ValueError as error:
        raise SetupError(
            "no virtual environment can be made in {} ({}): move the project to a path without "
            "`{}` and run this again.".format(ROOT, error, os.pathsep)
        ) from error


def pip_install(requirements: Path) -> None:
    """Install `requirements`, every file checked against its hash and compiled."""
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--no-input", "--require-hashes"]
    command += ["--disable-pip-version-check", "--compile", "--retries", "2"]
    command += ["--requirement", str(requirements)]
    done = subprocess.run(
        command, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode == 0:
        return
    LOG.write_bytes(done.stdout)
    output = done.stdout.decode(errors="replace")
    if "No space left" in output:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(VENV))
    if UNREACHABLE.search(output):
        raise SetupError(
            "the package index cannot be reached: connect this machine to the network, or name an "
            "index that it reaches in PIP_INDEX_URL, and run this again (pip's words: {}).".format(
                LOG.relative_to(ROOT)
            )
        )
    raise SetupError(
        "pip could not install {}: put right what it says in {} and run this again.".format(
            requirements.relative_to(ROOT), LOG.relative_to(ROOT)
        )
    )


def why_not_written(error: OSError) -> str:
    """The sentence for an error of the file system under .venv."""
    if error.errno == errno.ENOSPC:
        return "no space is left for {}: free about 300 MB and run this again.".format(VENV)
    return (
        "{} cannot be written: make it yours (`sudo chown -R $USER .`), or clone into a directory "
        "that is, and run this again.".format(error.filename or ROOT)
    )


def digest(file: Path) -> str:
    """The hash of a file, by which a change is seen."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
