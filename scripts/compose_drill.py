"""Brings docker-compose.yml up from a copy of the tree, uses it, looks at it and takes it down.

`make compose-drill`; it needs Docker with Compose. The project has a name and a port of its own,
so that one that is already up is left alone, and its volumes are removed at the end.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
from drills import copy_tree, log_in, sign_up, wait_until_ready
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

FORBIDDEN = ("pip", "pytest", "mypy", "playwright")


class Project:
    """A compose project of the drill's own, in a copy of the tree."""

    def __init__(self, copy: Path) -> None:
        with socket.socket() as one, socket.socket() as two:
            for free in (one, two):
                free.bind(("127.0.0.1", 0))
            self.port, self.mail_port = (free.getsockname()[1] for free in (one, two))
        self.copy = copy
        self.name = f"duplex-drill-{os.getpid()}"

    def compose(self, *arguments: str, check: bool = True) -> str:
        """What `docker compose` prints; a failure ends the drill."""
        command = ["docker", "compose", "--project-name", self.name, *arguments]
        ports = {"PORT": str(self.port), "MAIL_PORT": str(self.mail_port)}
        environment = os.environ | ports
        return subprocess.run(
            command, cwd=self.copy, env=environment, check=check, stdout=subprocess.PIPE, text=True
        ).stdout

    def inspect(self, service: str) -> Any:
        """What Docker knows of a service's container."""
        container = self.compose("ps", "--all", "--quiet", service).strip()
        command = ["docker", "inspect", container]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)[0]

    def client(self) -> httpx2.Client:
        """A client of the published port."""
        return httpx2.Client(
            base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=httpx2.Timeout(15)
        )

    def mailed(self) -> str:
        """The text of the first mail that comes; waits for it."""
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{self.mail_port}/api/v1", trust_env=False, timeout=15
        ) as mails:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                if found := mails.get("/messages").raise_for_status().json()["messages"]:
                    mail = mails.get(f"/message/{found[0]['ID']}").raise_for_status()
                    return str(mail.json()["Text"])
                time.sleep(0.2)
        raise RuntimeError("no mail came")

    def is_running(self) -> bool:
        """Whether the service's container runs."""
        return bool(self.inspect("app")["State"]["Running"])


def main() -> int:
    """Run the drill; what fails ends it with the containers' logs."""
    with tempfile.TemporaryDirectory(prefix="drill-") as place:
        copy_tree(Path(place))
        project = Project(Path(place))
        try:
            step("up, with nothing edited")
            project.compose("up", "--build", "--detach", "--quiet-pull")
            use(project)
            look(project)
            stop(project)
        except BaseException:
            print(project.compose("logs", "--no-color", check=False), file=sys.stderr)
            raise
        finally:
            project.compose("down", "--volumes", "--remove-orphans", check=False)
    step("everything held")
    return 0


def use(project: Project) -> None:
    """Sign up and log in; a second `up` and new containers keep the data and the secrets."""
    with project.client() as client:
        wait_until_ready(client, alive=project.is_running)
        step("sign up with the mail that comes, log in")
        sign_up(client, project.mailed)
        log_in(client)
        client.get("/api/v1/accounts/me").raise_for_status()
        step("up again, with new containers")
        project.compose("up", "--detach", "--force-recreate")
        wait_until_ready(client, alive=project.is_running)
        client.get("/api/v1/accounts/me").raise_for_status()  # the key that signed it is the same
        log_in(client)


def stop(project: Project) -> None:
    """Stop it with a WebSocket open: that is told why, and the service ends cleanly."""
    step("stop, with a WebSocket open")
    with project.client() as client:
        log_in(client)
        room = client.post("/api/v1/rooms", json={"name": "Library"})
        if room.status_code == 404:  # the example has been removed
            project.compose("stop")
        else:
            token = client.headers["Authorization"]
            stop_under(project, f"/api/v1/rooms/{room.json()['id']}/ws", token)
    state = project.inspect("app")["State"]
    assert state["ExitCode"] == 0, state


def stop_under(project: Project, path: str, token: str) -> None:
    """Stop it while somebody listens to the channel at `path`."""
    address, headers = f"ws://127.0.0.1:{project.port}{path}", {"Authorization": token}
    with (
        ThreadPoolExecutor() as pool,
        connect(address, additional_headers=headers, proxy=None) as socket,
    ):
        frame = json.loads(socket.recv(timeout=10))
        assert frame["type"] == "welcome", frame
        stopping = pool.submit(project.compose, "stop")
        try:
            while True:
                frame = json.loads(socket.recv(timeout=30))
        except ConnectionClosed:
            assert frame["data"]["code"] == "restarting", frame
        assert socket.close_code == 1012, socket.close_code
        stopping.result()


def look(project: Project) -> None:
    """See that the containers may do little, and that no secret is in what Docker tells."""
    step("what the containers may do")
    key, password = (
        project.compose("exec", "-T", "app", "cat", f"/run/secrets/{name}").strip()
        for name in ("secret_key", "database_password")
    )
    assert key != password, "one secret for two purposes"
    assert min(len(key), len(password)) >= 32, "a short secret"
    for service in ("app", "db", "mail", "migrate", "secrets"):
        container = project.inspect(service)
        host = container["HostConfig"]
        told = json.dumps(container)
        assert key not in told, f"{service}: its description tells the key"
        assert password not in told, f"{service}: its description tells the password"
        assert host["CapDrop"] == ["ALL"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert host["Memory"] > 0, f"{service}: no memory limit"
        published = [p for ports in (host["PortBindings"] or {}).values() for p in ports]
        port = {"app": project.port, "mail": project.mail_port}.get(service)
        expected = [{"HostIp": "127.0.0.1", "HostPort": str(port)}] if port else []
        assert published == expected, (service, published)
        if service != "db":
            assert host["ReadonlyRootfs"], f"{service}: it can write into its image"
    assert wait_for_health(project) == "healthy"
    look_inside(project)


def look_inside(project: Project) -> None:
    """See that the service is nobody in particular, and has what it runs and no more."""
    assert project.compose("exec", "-T", "app", "id", "-u").strip() == "10001"
    found = project.compose(
        "exec", "-T", "app", "python", "-c",
        f"import importlib.util as u; print([n for n in {FORBIDDEN} if u.find_spec(n)])",
    )  # fmt: skip
    assert found.strip() == "[]", f"the image has {found}"
    compiled = project.compose("exec", "-T", "app", "sh", "-c", "ls app/__pycache__/*.pyc")
    assert "main" in compiled, "the code is compiled at each start"
    visible = project.compose("exec", "-T", "db", "ls", "/run/secrets").split()
    assert visible == ["database_password"], f"the database sees {visible}"


def wait_for_health(project: Project) -> str:
    """Docker's verdict on the service, once there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        health = str(project.inspect("app")["State"]["Health"]["Status"])
        if health != "starting":
            return health
        time.sleep(0.5)
    return "starting"


def step(text: str) -> None:
    """Say what comes next."""
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
