"""deploy/: the manifests are valid, fit the settings, and systemd takes the units."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from app.core.settings import Settings
from app.server import OVERTIME_SECONDS
from tests.conftest import settings_for

ROOT = Path(__file__).parent.parent
KUBERNETES = ROOT / "deploy" / "kubernetes"
SYSTEMD = ROOT / "deploy" / "systemd"
SCHEMAS = ROOT / "tests" / "deploy" / "kubernetes-1.37.json"
#: What may still be running when the process has ended itself: the alarm is a second later.
AT_LEAST = OVERTIME_SECONDS + 1


def documents(file: Path) -> list[Any]:
    """What is in a file of YAML."""
    return list(YAML(typ="safe").load_all(file))


MANIFESTS = {
    f"{file.stem}-{number}": document
    for file in sorted(KUBERNETES.glob("*.yaml"))
    if file.name != "kustomization.yaml"
    for number, document in enumerate(documents(file))
}


def manifest(name: str) -> Any:
    """The first object of a file."""
    return MANIFESTS[f"{name}-0"]


def pods() -> Iterator[tuple[str, Any]]:
    """What each Deployment and Job runs."""
    for name in ("app", "worker", "migrate"):
        yield name, manifest(name)["spec"]["template"]["spec"]


def cluster_settings() -> Settings:
    """The settings as the pods have them, with the secrets that are to be made."""
    values = {name.lower(): value for name, value in manifest("config")["data"].items()}
    return settings_for(
        values.pop("database_url"), **values, smtp_url="smtps://mail.example.com:465"
    )


def problems(document: Any) -> list[str]:
    """What Kubernetes 1.37 would not take of an object, field by field."""
    schemas = json.loads(SCHEMAS.read_text())
    kind = schemas["kinds"][f"{document['apiVersion']} {document['kind']}"]
    validator = Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": schemas["$defs"]})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def test_the_schemas_are_those_that_were_released() -> None:
    """The vendored file is the one whose origin is written down."""
    written = (SCHEMAS.parent / "README.md").read_text()
    assert hashlib.sha256(SCHEMAS.read_bytes()).hexdigest() in written


@pytest.mark.parametrize("name", list(MANIFESTS))
def test_kubernetes_takes_a_manifest(name: str) -> None:
    """Each object has the fields that its kind has, of the right types."""
    assert problems(MANIFESTS[name]) == []


def test_a_field_that_there_is_not_is_found() -> None:
    """The schemas are strict: a misspelt field does not pass."""
    document = json.loads(json.dumps(manifest("app")))
    document["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    document["spec"]["replicas"] = "two"
    assert len(problems(document)) == 2


def test_kustomization_names_every_file() -> None:
    """All but the migration, which is run by itself."""
    (kustomization,) = documents(KUBERNETES / "kustomization.yaml")
    files = {file.name for file in KUBERNETES.glob("*.yaml")}
    assert set(kustomization["resources"]) == files - {"kustomization.yaml", "migrate.yaml"}


def test_the_settings_of_the_pods_are_settings() -> None:
    """Every name is one, and production starts with the values."""
    names = {name.lower() for name in manifest("config")["data"]} - {"secrets_dir"}
    assert names <= set(Settings.model_fields)
    assert cluster_settings().environment == "production"


def test_nothing_is_killed_that_is_still_ending() -> None:
    """Kubernetes waits for preStop, SHUTDOWN_SECONDS, and until the process would end itself."""
    settings = cluster_settings()
    for name, pod in pods():
        if name == "migrate":
            continue
        (container,) = pod["containers"]
        before = (
            container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        )
        needed = before + settings.shutdown_seconds + AT_LEAST
        assert pod["terminationGracePeriodSeconds"] >= needed, name
    # It is preStop that waits for the proxies: DRAIN_SECONDS would refuse handshakes meanwhile.
    assert settings.drain_seconds == 0
    compose = (ROOT / "docker-compose.yml").read_text()
    grace = [int(seconds) for seconds in re.findall(r"stop_grace_period: (\d+)s", compose)]
    default = Settings.model_fields["shutdown_seconds"].default
    longest = max(map(int, re.findall(r"SHUTDOWN_SECONDS: (\d+)", compose)), default=default)
    assert grace
    assert min(grace) >= longest + AT_LEAST
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit("duplex.service"), re.MULTILINE)
    assert int(stop) >= default + AT_LEAST


def test_pods_have_no_rights() -> None:
    """No root, no capability, nothing to write to but /tmp, no key to the cluster."""
    for name, pod in pods():
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]) == {"requests", "limits"}


def test_probes_are_answered() -> None:
    """They ask what there is, under a name that is served, and wait longer than the database."""
    settings = cluster_settings()
    (container,) = manifest("app")["spec"]["template"]["spec"]["containers"]
    asked = {kind: container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")}
    for probe in asked.values():
        (header,) = probe["httpGet"]["httpHeaders"]
        assert header["name"] == "Host"
        assert header["value"] in settings.allowed_hosts
    paths = [probe["httpGet"]["path"] for probe in asked.values()]
    assert paths == ["/health/live", "/health/live", "/health/ready"]
    assert asked["readiness"]["timeoutSeconds"] > settings.database_timeout_seconds


def test_metrics_are_at_the_port_that_is_named() -> None:
    """The app and its workers serve them, to the cluster, and no Service leads there."""
    settings = cluster_settings()
    assert settings.metrics_host == "0.0.0.0"  # noqa: S104 - within the cluster
    for name, pod in pods():
        ports = {
            each["name"]: each["containerPort"] for each in pod["containers"][0].get("ports", [])
        }
        assert ports.get("metrics") == (None if name == "migrate" else settings.metrics_port)
    assert "metrics" not in json.dumps(manifest("service"))


def test_one_name_leads_to_another() -> None:
    """Service, budget and spreading select the app's pods, and the ingress leads to the service."""
    app, service, budget = manifest("app"), manifest("service"), MANIFESTS["service-1"]
    labels = app["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert app["spec"]["selector"]["matchLabels"] == labels
    (rule,) = manifest("ingress")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": "duplex", "port": {"name": "http"}}
    assert rule["host"] in cluster_settings().allowed_hosts
    assert cluster_settings().public_url == f"https://{rule['host']}"
    worker = manifest("worker")["spec"]
    assert worker["selector"]["matchLabels"] == worker["template"]["metadata"]["labels"] != labels


def unit(name: str) -> str:
    """The text of a unit."""
    return (SYSTEMD / name).read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """With the service where this tree is, they have no line that it does not know."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed: the units are not checked")
    for file in SYSTEMD.iterdir():
        text = file.read_text().replace("/opt/duplex/.venv/bin/python", sys.executable)
        (tmp_path / file.name).write_text(text.replace("/opt/duplex", str(ROOT)))
    done = subprocess.run(
        [analyze, "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "duplex" in line]
    assert said == []


def test_units_and_pods_run_commands_that_there_are() -> None:
    """`python -m app …` of each is a command."""
    text = "".join(file.read_text() for file in SYSTEMD.glob("*.service"))
    assert set(re.findall(r"-m app (\w+(?: \w+)?)", text)) == {"serve", "db backup"}
    args = [pod["containers"][0].get("args", []) for _, pod in pods()]
    assert args == [
        [],
        ["python", "-m", "app", "worker"],
        ["python", "-m", "app", "db", "upgrade"],
    ]
