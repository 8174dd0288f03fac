"""The metrics, their guide, the alerts, the runbook and the dashboard speak of the same things."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram

from app.core import metrics
from tests.counting import names

ROOT = Path(__file__).parent.parent
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "duplex.json"
GUIDE = ROOT / "docs" / "watching.md"
RUNBOOK = ROOT / "docs" / "runbook.md"
METRIC = re.compile(r"\bduplex_[a-z_]+[a-z](?![a-z_*])")


@pytest.mark.parametrize("file", [ALERTS, DASHBOARD, RUNBOOK], ids=lambda file: file.name)
def test_only_metrics_that_exist_are_named(file: Path) -> None:
    """One that was renamed is renamed everywhere."""
    named = set(METRIC.findall(file.read_text()))
    assert named
    assert named <= names()


def test_the_guide_has_every_metric_and_no_other() -> None:
    """In the first column of one of its tables; the example of a metric of one's own is none."""
    tables = re.findall(r"^\| (`duplex_[^|]+)\|", GUIDE.read_text(), re.MULTILINE)
    listed = METRIC.findall("".join(tables))
    assert len(listed) == len(set(listed))
    assert set(listed) == names()


def test_the_guide_names_the_labels_that_there_are() -> None:
    """Of every metric, in their order."""
    labels = {}
    for name, listed in re.findall(
        r"^\| `(duplex_[a-z_]+?)(?:_total|_bucket)?`[^|]*\| ([^|]*)\|",
        GUIDE.read_text(),
        re.MULTILINE,
    ):
        labels[name] = tuple(filter(None, listed.strip().split(", ")))
    real = {
        each._name: tuple(each._labelnames)
        for each in vars(metrics).values()
        if isinstance(each, (Counter, Gauge, Histogram))
    }
    assert labels == real


def test_every_alert_has_its_paragraph() -> None:
    """The runbook has a heading for each alert, in their order, with what to look at and to do."""
    text = ALERTS.read_text()
    alerts = re.findall(r"- alert: (\w+)", text)
    assert re.findall(r"runbook: (\S+)", text) == [
        f"docs/runbook.md#{alert.lower()}" for alert in alerts
    ]
    runbook = RUNBOOK.read_text()
    assert re.findall(r"^## (\w+)", runbook, re.MULTILINE) == alerts
    for paragraph in runbook.split("\n## ")[1:]:
        assert "**Look at:**" in paragraph
        assert "**Do:**" in paragraph


def test_the_dashboard_is_one_that_grafana_can_show() -> None:
    """Each panel has a title of its own, a place of its own, and the provisioned data source."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["title"] for panel in panels}) == len(panels) >= 16
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    source = (ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text()
    uids = {target["datasource"]["uid"] for panel in panels for target in panel["targets"]}
    assert uids == set(re.findall(r"uid: (\w+)", source))
