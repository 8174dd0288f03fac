"""What the drills share: a copy of the tree, and a person who uses the service that runs in it."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx2

ROOT = Path(__file__).resolve().parent.parent
PERSON = {"email": "ada@example.com", "password": "correct horse battery", "name": "Ada"}


def copy_tree(target: Path) -> None:
    """Copy every file that git knows, or would add, to `target`, as a clone would have them."""
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # a file that is removed but not yet committed is listed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    git(target, "init", "--quiet")
    git(target, "add", "--all")


def git(place: Path, *arguments: str) -> str:
    """What git answers in `place`, whatever repository this process was started in."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    return subprocess.run(
        ["git", *arguments], cwd=place, env=environment, check=True, capture_output=True, text=True
    ).stdout


def wait_until_ready(
    client: httpx2.Client, *, alive: Callable[[], bool], seconds: float = 60
) -> None:
    """Wait for the first good answer of /health/ready; raises RuntimeError if none comes."""
    deadline = time.monotonic() + seconds
    answer = "nothing"
    while alive() and time.monotonic() < deadline:
        try:
            response = client.get("/health/ready")
        except httpx2.TransportError as error:
            answer = str(error)
        else:
            if response.is_success:
                return
            answer = response.text
        time.sleep(0.1)
    raise RuntimeError(f"the service is not ready: {answer}")


def sign_up(
    client: httpx2.Client,
    mailed: Callable[[], str] | None = None,
    person: dict[str, str] = PERSON,
) -> None:
    """Make the person's account, with the link of the mail that they are sent.

    `mailed` gives the mail's text; without it the service is one of development, which shows it.
    """
    asked = {name: person[name] for name in ("email", "name")}
    answer = client.post("/api/v1/accounts/sign-up", json=asked).raise_for_status()
    if mailed is None:
        shown = client.get(f"/development/mail/{answer.headers['X-Development-Mail']}")
        text = shown.raise_for_status().json()["text"]
    else:
        text = mailed()
    token = re.search(r"#confirm\?token=(\S+)", text)
    assert token, text
    choice = {"token": token[1], "password": person["password"]}
    client.post("/api/v1/accounts/confirm", json=choice).raise_for_status()


def log_in(client: httpx2.Client, person: dict[str, str] = PERSON) -> None:
    """Log the person in, for every later request of `client`."""
    form = {"username": person["email"], "password": person["password"]}
    response = client.post("/api/v1/auth/login", data=form).raise_for_status()
    client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"
