"""Brings docker-compose.yml up, or replaces its replicas one at a time.

`make up` and `make rolling-restart` call it. It needs Docker with Compose, and of Python the
standard library alone. Which project, which ports: as with `docker compose` itself.
"""

import json
import subprocess
import sys
from typing import Any

CAUGHT = "smtp://mail:1025"


class DeployError(Exception):
    """What stands in the way, in one sentence that names the remedy."""


def main(arguments: list[str]) -> int:
    """Do what is asked for; gives the exit code."""
    commands = {"up": up, "rolling-restart": rolling_restart}
    if len(arguments) != 1 or arguments[0] not in commands:
        print(f"usage: python3 scripts/deploy.py {{{','.join(commands)}}}", file=sys.stderr)
        return 2
    try:
        commands[arguments[0]]()
    except DeployError as error:
        print(f"deploy: {error}", file=sys.stderr)
        return 1
    except FileNotFoundError:
        print("deploy: docker is not there: install it, with Compose.", file=sys.stderr)
        return 1
    return 0


def up() -> None:
    """Bring everything up, wait until it is ready, and say where it is."""
    must(["compose", "up", "--build", "--detach", "--wait"], "see docker compose logs")
    services = json.loads(told("compose", "config", "--format", "json"))["services"]
    app = services["app"]["environment"]
    print(f"\nDuplex is at {app['PUBLIC_URL']}")
    if app["SMTP_URL"] == CAUGHT:
        port = services["mail"]["ports"][0]["published"]
        print(f"What it mails is caught, and shown at http://localhost:{port}")
    if services["proxy"]["environment"]["DOMAIN"] == "localhost":
        print(
            "A browser warns of its certificate, which is of its own authority. To trust that:"
            "\n  docker compose cp proxy:/data/caddy/pki/authorities/local/root.crt ."
        )


def rolling_restart() -> None:
    """Build, migrate, and put a new replica in place of each that runs; then new workers.

    A replica goes when the next one is ready, so that there are never fewer than before. Where a
    new one does not get ready it is removed, and those that are left serve on.
    """
    old = replicas()
    if not old:
        raise DeployError("no replica runs: bring them up with `make up`.")
    must(["compose", "build", "app"], "the replicas serve on")
    for job in ("secrets", "migrate"):
        must(["compose", "run", "--rm", "--no-deps", "-T", job], "the replicas serve on")
    for number, replica in enumerate(old, 1):
        start_one(len(old) + 1)
        must(["stop", replica])
        must(["rm", replica])
        print(f"replica {number} of {len(old)} is replaced", flush=True)
    workers = told("compose", "ps", "--quiet", "worker").split()
    if workers:
        new = ["--force-recreate", "--scale", f"worker={len(workers)}"]
        must(["compose", "up", "--detach", "--no-deps", *new, "worker"])
        print(f"{len(workers)} of worker replaced", flush=True)


def start_one(count: int) -> None:
    """Have `count` replicas, of which the new ones are ready; raises DeployError."""
    before = set(replicas())
    scale = ["--scale", f"app={count}", "--no-deps", "--no-recreate", "app"]
    if run("compose", "up", "--detach", "--wait", *scale).returncode:
        for new in set(replicas()) - before:
            told("rm", "--force", new)
        raise DeployError("the new replica did not get ready: the others serve on, see above.")


def replicas() -> list[str]:
    """The containers of the service, those that have ended too."""
    return told("compose", "ps", "--all", "--quiet", "app").split()


def run(*arguments: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    """Run docker with these arguments."""
    return subprocess.run(["docker", *arguments], text=True, check=False, **more)


def must(arguments: list[str], otherwise: str = "see above") -> None:
    """Run docker; raises DeployError where that fails."""
    if run(*arguments).returncode:
        raise DeployError(f"`docker {' '.join(arguments)}` failed: {otherwise}.")


def told(*arguments: str) -> str:
    """What docker prints; raises DeployError where that fails."""
    done = run(*arguments, stdout=subprocess.PIPE)
    if done.returncode:
        raise DeployError(f"`docker {' '.join(arguments)}` failed: see above.")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
