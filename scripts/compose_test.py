"""Brings docker-compose.yml up from a copy of the tree, uses it, hurts it, looks at it, removes it.

`make compose-test`; it needs Docker with Compose. What fails ends it, with the containers' logs.
"""

import asyncio
import json
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx2
import pytest
from compose_load import Load, headers_of
from compose_look import look, look_at, nothing_tells
from compose_project import Project
from drills import PERSON, copy_tree, log_in, sign_up
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

POSTERS = 3
FORGED = "203.0.113.9"
BEGAN = time.monotonic()


def main() -> int:
    """Run the test; what fails ends it with the containers' logs."""
    with tempfile.TemporaryDirectory(prefix="compose-") as place:
        copy_tree(Path(place))
        project = Project(Path(place))
        try:
            run(project)
        except BaseException:
            print(project.compose("logs", "--no-color", check=False), file=sys.stderr)
            raise
        finally:
            project.remove()
    step("everything held")
    return 0


def run(project: Project) -> None:
    """All steps."""
    step("docker compose up -d, with nothing edited")
    project.compose("up", "--detach", "--quiet-pull")
    step("make up: everything is there, and it says where")
    said = project.deploy("up")
    assert f"Duplex is at {project.url}" in said, said
    assert f"http://localhost:{project.ports['MAIL_PORT']}" in said, said
    step("what the containers may do, and what they publish")
    secrets = look(project)
    step("sign up with the mails that come, log in")
    with project.client() as client:
        tokens = [join(project, client, number) for number in range(POSTERS)]
        secrets += tokens
        room = make_room(client, tokens)
    if room is None:
        print("   the example is removed: nothing is posted")
    else:
        step("post over REST, hear it on sockets of other replicas")
        heard_elsewhere(project, room, tokens)
    step("the door: addresses that are made up, HTTP, HTTP/2, HSTS")
    addresses(project)
    door(project)
    step("a replica that does not start replaces none")
    broken(project)
    step("nobody answers: a problem")
    nobody(project, tokens[0])
    nothing_tells(project, secrets)  # before `down` removes what was logged
    step("down and up, with a name of its own: the data and the secrets are there")
    renamed(project, tokens[0])
    if room is not None:
        step("restarted and hurt under load, and watched")
        project.compose("--profile", "observe", "up", "--detach", "--no-deps", "prometheus")
        for container in project.containers("prometheus"):
            look_at(project, "prometheus", project.inspect(container), secrets)
        asyncio.run(under_load(project, room, tokens))
        watched(project)
        project.compose("--profile", "observe", "stop", "prometheus")
    step("no secret is in any log")
    nothing_tells(project, secrets)


def join(project: Project, client: httpx2.Client, number: int) -> str:
    """Make an account; returns its access token."""
    person = PERSON | {"email": f"person{number}@example.com"}
    sign_up(client, partial(project.mailed, person["email"]), person)
    log_in(client, person)
    return client.headers["Authorization"].removeprefix("Bearer ")


def make_room(client: httpx2.Client, tokens: list[str]) -> int | None:
    """Make a room that everybody is a member of; None where there are no rooms."""
    made = client.post("/api/v1/rooms", json={"name": "Library"})
    if made.status_code == 404:
        return None
    room: int = made.raise_for_status().json()["id"]
    for token in tokens:
        url = f"/api/v1/rooms/{room}/members/me"
        client.put(url, headers=headers_of(token)).raise_for_status()
    return room


def heard_elsewhere(project: Project, room: int, tokens: list[str]) -> None:
    """What is posted over REST is heard on every socket, of which another replica holds some."""
    with project.client() as client, ExitStack() as stack:
        sockets = [
            stack.enter_context(
                connect(
                    f"{project.url.replace('https', 'wss')}/api/v1/rooms/{room}/ws",
                    additional_headers=headers_of(tokens[0])
                    | {"X-Request-ID": f"compose-socket-{n}"},
                    ssl=project.trust(), proxy=None,
                )
            )
            for n in range(6)
        ]  # fmt: skip
        asked = headers_of(tokens[-1]) | {"X-Request-ID": "compose-post"}
        url = f"/api/v1/rooms/{room}/posts"
        client.post(url, json={"text": "Hello"}, headers=asked).raise_for_status()
        for each in sockets:
            while (frame := json.loads(each.recv(timeout=15)))["type"] != "posted":
                pass
            assert frame["data"]["text"] == "Hello", frame
    served: dict[str, set[str]] = {}
    deadline = time.monotonic() + 15
    while sum(len(found) for found in served.values()) < 7 and time.monotonic() < deadline:
        served = {
            replica: {str(line.get("request_id")) for line in project.lines(replica)}
            & {"compose-post", *(f"compose-socket-{n}" for n in range(6))}
            for replica in project.containers("app")
        }
    others = [found for found in served.values() if "compose-post" not in found]
    assert any(others), f"all was done by one replica: {served}"
    print(f"   {sum(map(len, others))} of 6 sockets were held by another replica")


def addresses(project: Project) -> None:
    """Whatever a client says of its address, the service sees the one that it has."""
    forged = dict.fromkeys(
        ("X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Forwarded-Host"), FORGED
    )
    with project.client() as client:
        for headers in ({}, forged | {"X-Forwarded-Proto": "http"}):
            url = "/api/v1/rooms"
            client.get(url, headers=headers | {"X-Request-ID": f"compose-from-{len(headers)}"})
    # Another container, which is no proxy.
    asked = (
        "import urllib.request as u; u.urlopen(u.Request('http://app:8000/health/live', headers="
        f"{{'X-Forwarded-For': '{FORGED}', 'X-Request-ID': 'compose-from-inside'}}))"
    )
    project.compose("exec", "-T", "worker", "python", "-c", asked)
    seen = {
        line["request_id"]: line["client"]
        for replica in project.containers("app")
        for line in project.lines(replica)
        if str(line.get("request_id")).startswith("compose-from-")
    }
    assert len(seen) == 3, seen
    assert FORGED not in seen.values(), f"a made-up address is believed: {seen}"
    assert not seen["compose-from-0"].startswith(project.edge), (
        f"the proxy is seen as the client: {seen}"
    )
    assert seen["compose-from-0"] == seen["compose-from-5"], seen


def door(project: Project) -> None:
    """HTTP leads to HTTPS, which is HTTP/2 too; nobody is told to keep to it on localhost."""
    plain = f"http://localhost:{project.ports['HTTP_PORT']}"
    answer = httpx2.get(f"{plain}/docs?a=b", trust_env=False)
    assert (answer.status_code, answer.headers["location"]) == (308, f"{project.url}/docs?a=b")
    with project.client() as client:
        page = client.get("/")
        assert page.is_success
        assert "Strict-Transport-Security" not in page.headers
    context = project.trust()
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("localhost", project.ports["HTTPS_PORT"]), timeout=10) as tcp,
        context.wrap_socket(tcp, server_hostname="localhost") as tls,
    ):
        assert tls.selected_alpn_protocol() == "h2"
        tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        assert tls.recv(9)[3] == 4, "no SETTINGS frame: it is not HTTP/2"


async def under_load(project: Project, room: int, tokens: list[str]) -> None:
    """Restart and hurt it while clients use it; every acknowledged post arrives once, in order."""
    load = Load(project.url, project.trust(), room, tokens)

    async def run(*command: str) -> None:
        await asyncio.to_thread(project.run, *command)

    async def nothing() -> None:
        await asyncio.sleep(3)

    async def roll() -> None:
        before = set(project.containers("app"))
        said = await asyncio.to_thread(project.deploy, "rolling-restart")
        assert "replica 2 of 2 is replaced" in said, said
        assert not before & set(project.containers("app")), "a replica is still there"

    async def kill() -> None:
        replica = project.containers("app")[0]
        await run("docker", "kill", "--signal", "KILL", replica)
        await asyncio.sleep(3)
        await run("docker", "start", replica)
        while project.inspect(replica)["State"]["Health"]["Status"] != "healthy":  # noqa: ASYNC110
            await asyncio.sleep(0.5)

    async def lose_redis() -> None:
        await run("docker", "compose", "stop", "redis")
        await asyncio.sleep(3)
        await run("docker", "compose", "start", "redis")

    async def restart_database() -> None:
        await run("docker", "compose", "restart", "db")

    wrong = await load.run(
        {
            "nothing": nothing, "rolling restart": roll, "a replica killed": kill,
            "Redis gone": lose_redis, "PostgreSQL restarted": restart_database,
        }
    )  # fmt: skip
    print(load.table())
    assert not wrong, wrong
    for name in ("nothing", "rolling restart", "Redis gone"):
        assert not load.phases[name].errors, f"{name}: REST failed"
    assert load.ledger.refused["restarting"], "no subscriber was told of the restart"
    assert not load.ledger.refused.keys() - {"restarting", "unavailable"}, load.ledger.refused


def watched(project: Project) -> None:
    """Prometheus gets the metrics of replicas and workers."""
    url = f"http://127.0.0.1:{project.ports['PROMETHEUS_PORT']}/api/v1/query"
    deadline = time.monotonic() + 60
    while True:
        answer = httpx2.get(url, params={"query": "sum by (service) (up)"}, trust_env=False)
        found = {
            each["metric"]["service"]: float(each["value"][1])
            for each in answer.raise_for_status().json()["data"]["result"]
        }
        if found.get("app", 0) >= 1 and found.get("worker", 0) >= 1:
            return
        assert time.monotonic() < deadline, f"Prometheus reaches {found}"
        time.sleep(1)


def broken(project: Project) -> None:
    """A setting that is wrong ends a rolling restart at its first replica."""
    before = project.containers("app")
    project.variables["DATABASE_POOL_SIZE"] = "none"
    said = project.deploy("rolling-restart", check=False)
    del project.variables["DATABASE_POOL_SIZE"]
    assert "the others serve on" in said, said
    assert project.containers("app") == before, "a replica is gone"
    with project.client() as client:
        client.get("/health/ready").raise_for_status()


def renamed(project: Project, token: str) -> None:
    """With a name for the world, HTTPS is asked to be kept to; a token of before is good."""
    project.compose("down")
    project.variables["DOMAIN"] = "duplex.local"  # from its own authority, as no other knows it
    said = project.deploy("up")
    url = f"https://duplex.local:{project.ports['HTTPS_PORT']}"
    assert f"Duplex is at {url}" in said, said
    request = (
        f"GET /api/v1/accounts/me HTTP/1.1\r\nHost: duplex.local:{project.ports['HTTPS_PORT']}\r\n"
    )
    request += f"Authorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    with (
        socket.create_connection(("localhost", project.ports["HTTPS_PORT"]), timeout=20) as tcp,
        project.trust().wrap_socket(tcp, server_hostname="duplex.local") as tls,
    ):
        tls.sendall(request.encode())
        answer = b"".join(iter(lambda: tls.recv(65536), b"")).decode()
    assert answer.startswith("HTTP/1.1 200"), answer
    assert "\nStrict-Transport-Security: max-age=31536000" in answer, answer
    del project.variables["DOMAIN"]
    project.deploy("up")


def nobody(project: Project, token: str) -> None:
    """Without a replica the proxy answers in the form of every error, and logs no token."""
    project.compose("stop", "app")
    for container in project.containers("app"):
        state = project.inspect(container)["State"]
        assert state["ExitCode"] == 0, state
    with project.client() as client:
        answer = client.post("/api/v1/rooms?ticket=" + token, headers=headers_of(token))
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "unavailable"
    with pytest.raises(InvalidStatus) as refused:
        connect(
            f"{project.url.replace('https', 'wss')}/api/v1/rooms/1/ws", ssl=project.trust(),
            subprotocols=[Subprotocol("bearer"), Subprotocol(token)], proxy=None, open_timeout=30,
        )  # fmt: skip
    assert refused.value.response.status_code == 503


def step(text: str) -> None:
    """Say what comes next, and when."""
    print(f"== {time.monotonic() - BEGAN:4.0f} s  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
