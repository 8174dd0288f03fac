"""Runs every query of the dashboard and of the alerts against a Prometheus: none may fail, and each
of the dashboard has to find something.

    python scripts/dashboard_check.py http://localhost:9090 [--interval 1m] [--wait 60]

It ends with 1 and a line for each query that does not. It needs no package.
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DASHBOARDS = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "dashboards"


def queries(interval: str) -> Iterator[tuple[str, str]]:
    """The title of each panel with each of its queries, as Grafana would send them."""
    for file in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield panel["title"], target["expr"].replace("$__rate_interval", interval)


def ask(url: str, path: str, **parameters: str) -> Any:
    """The `data` of an answer; raises ValueError with what Prometheus says is wrong."""
    query = urllib.parse.urlencode(parameters)
    try:
        with urllib.request.urlopen(f"{url}/api/v1/{path}?{query}", timeout=10) as answer:  # noqa: S310 - a person names it
            return json.load(answer)["data"]
    except urllib.error.HTTPError as refused:
        raise ValueError(refused.read().decode(errors="replace")) from None


def wrong(url: str, interval: str) -> list[str]:
    """A line for each query that fails, and for each of a panel that finds nothing."""
    found = []
    for title, query in queries(interval):
        try:
            if not ask(url, "query", query=query)["result"]:
                found.append(f"{title}: no data for {query}")
        except ValueError as refused:
            found.append(f"{title}: {query}: {refused}")
    groups = ask(url, "rules", type="alert")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    if not rules:
        found.append("Prometheus has loaded no alert")
    for rule in rules:
        try:
            ask(url, "query", query=rule["query"])
        except ValueError as refused:
            found.append(f"{rule['name']}: {refused}")
        if rule["health"] == "err":
            found.append(f"{rule['name']}: {rule['lastError']}")
    return found


def main() -> None:
    """Ask until everything is there, or the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of Prometheus")
    parser.add_argument("--interval", default="1m", help="what stands for $__rate_interval")
    parser.add_argument("--wait", type=float, default=0, help="seconds until data has to be there")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.wait
    while True:
        try:
            found = wrong(arguments.url.rstrip("/"), arguments.interval)
        except OSError as away:
            found = [f"{arguments.url} does not answer: {away}"]
        if not found or time.monotonic() > deadline:
            break
        time.sleep(1)
    for line in found:
        print(line)
    if found:
        sys.exit(1)
    print(f"{len(list(queries(arguments.interval)))} queries find something, every alert is sound")


if __name__ == "__main__":
    main()
