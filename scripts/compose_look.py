"""What the containers of a compose project may do, what they publish, and what they give away."""

import json
from pathlib import Path
from typing import Any

from compose_project import Project

from app.core.settings import Settings

OURS = ("app", "worker", "migrate")
SERVICES = ("proxy", *OURS, "db", "redis", "mail", "secrets")
FORBIDDEN = ("pip", "pytest", "mypy", "playwright")
#: Capabilities that a container has: those that its program does not start without.
ADDED = {"proxy": 1, "db": 5}
#: Settings are documented in .env.example; this one is pydantic's, for the others' files.
KNOWN = {
    *(name.upper() for name in Settings.model_fields),
    "SECRETS_DIR",
    "METRICS_HOST",
    "METRICS_PORT",
}
SECRETS = {
    "app": ("secret_key", "database_password", "redis_url"),
    "db": ("database_password",),
    "redis": ("password", "redis.conf"),
}


def look(project: Project) -> list[str]:
    """See that the containers may do little; returns the secrets, for `nothing_tells`."""
    secrets = read_secrets(project)
    for service in SERVICES:
        for container in project.containers(service):
            look_at(project, service, project.inspect(container), secrets)
    for service in OURS:
        environment = json.loads(project.compose("config", "--format", "json"))["services"][
            service
        ]["environment"]
        assert set(environment) <= KNOWN, f"{service}: {set(environment) - KNOWN} is no setting"
    look_inside(project)
    return secrets


def read_secrets(project: Project) -> list[str]:
    """The secrets that the first `up` made: long, and each for one purpose."""
    for service, expected in SECRETS.items():
        visible = project.compose("exec", "-T", service, "ls", "/run/secrets").split()
        assert set(visible) == set(expected), f"{service} sees {visible}"
    key, password, redis = (
        project.compose("exec", "-T", service, "cat", f"/run/secrets/{name}").strip()
        for service, name in (
            ("app", "secret_key"), ("app", "database_password"), ("redis", "password"),
        )
    )  # fmt: skip
    assert len({key, password, redis}) == 3, "one secret for two purposes"
    assert min(len(each) for each in (key, password, redis)) >= 32, "a short secret"
    return [key, password, redis]


def look_at(project: Project, service: str, container: Any, secrets: list[str]) -> None:
    """See what one container may do, and what Docker tells of it."""
    host, told = container["HostConfig"], json.dumps(container)
    for secret in secrets:
        assert secret not in told, f"{service}: its description tells a secret"
    assert host["CapDrop"] == ["ALL"], service
    assert len(host["CapAdd"] or ()) == ADDED.get(service, 0), (service, host["CapAdd"])
    assert "no-new-privileges:true" in host["SecurityOpt"], service
    assert host["Memory"] > 0, f"{service}: no memory limit"
    assert service == "db" or host["ReadonlyRootfs"], f"{service}: it can write into its image"
    policy = host["RestartPolicy"]["Name"]
    assert policy == ("no" if service in ("migrate", "secrets") else "unless-stopped"), service
    published = {
        (port["HostIp"], int(port["HostPort"]))
        for ports in (host["PortBindings"] or {}).values()
        for port in ports
    }
    names = {"proxy": ("HTTP_PORT", "HTTPS_PORT"), "mail": ("MAIL_PORT",)}.get(service, ())
    address = "127.0.0.1" if service == "mail" else ""
    assert published == {(address, project.ports[name]) for name in names}, (service, published)
    if container["State"]["Running"] and service in OURS:
        look_at_process(service, int(container["State"]["Pid"]))


def look_at_process(service: str, pid: int) -> None:
    """See that the kernel has it as a user without rights."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert set(status["Uid"].split()) == {"10001"}, (service, status["Uid"])
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}, service
    assert status["NoNewPrivs"] == "1", service


def look_inside(project: Project) -> None:
    """See that the service has what it runs and no more, and can write nowhere else."""
    found = project.compose(
        "exec", "-T", "app", "python", "-c",
        f"import importlib.util as u; print([n for n in {FORBIDDEN} if u.find_spec(n)])",
    )  # fmt: skip
    assert found.strip() == "[]", f"the image has {found}"
    compiled = project.compose("exec", "-T", "app", "sh", "-c", "ls app/__pycache__/*.pyc")
    assert "main" in compiled, "the code is compiled at each start"
    for place in ("/srv/app", "/run/secrets", "/etc"):
        written = project.compose(
            "exec", "-T", "app", "sh", "-c", f"touch {place}/x 2>/dev/null && echo it can || true"
        )
        assert "it can" not in written, f"the service can write to {place}"


def nothing_tells(project: Project, secrets: list[str]) -> None:
    """See that no container has logged any of these."""
    logged = project.compose("--profile", "*", "logs", "--no-color")
    assert "duplex" in logged, "there are no logs"
    for secret in secrets:
        assert secret not in logged, f"a secret is in the logs: {secret[:4]}…"
