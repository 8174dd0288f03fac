"""What the service shows a person, and what it lists for a page."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from app.core.errors import registry
from tests.conftest import settings_for
from tests.server import RunningServer

WEB = Path(__file__).parent.parent / "web"
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
def client(new_sqlite: Callable[[], str]) -> Iterator[httpx2.Client]:
    """A client of the service."""
    with (
        RunningServer(settings_for(new_sqlite(), environment="production")) as server,
        httpx2.Client(base_url=server.url, timeout=20) as client,
    ):
        yield client


def test_the_registry_is_listed(client: httpx2.Client) -> None:
    """`/errors` as JSON is the whole registry, by code."""
    listed = client.get("/errors").json()["errors"]
    assert [entry["code"] for entry in listed] == sorted(registry)
    for entry in listed:
        assert entry == registry[entry["code"]].describe()


def test_the_type_of_every_error_resolves(client: httpx2.Client) -> None:
    """The address in `type` leads to the entry of that error."""
    for code, error in registry.items():
        answered = client.get(error.describe()["type"])
        assert answered.status_code == 200
        assert answered.json()["code"] == code


def test_a_browser_gets_a_page_of_errors(client: httpx2.Client) -> None:
    """Who asks for HTML gets the page, at the entry of one error too; a cache keeps them apart."""
    page = client.get("/errors", headers=HTML)
    assert page.headers["content-type"].startswith("text/html")
    entry = client.get("/errors/not_found", headers=HTML)
    assert entry.is_redirect
    assert entry.headers["location"] == "../errors#not_found"
    for answered in (page, entry, client.get("/errors"), client.get("/errors/not_found")):
        assert "accept" in answered.headers["vary"].lower()


def test_an_error_that_is_not_registered_is_not_found(client: httpx2.Client) -> None:
    """An unknown code is a problem itself, also for a browser."""
    for headers in ({}, HTML):
        answered = client.get("/errors/rooms.nonsense", headers=headers)
        assert (answered.status_code, answered.json()["code"]) == (404, "not_found")


def test_the_features_with_a_page_are_listed(client: httpx2.Client) -> None:
    """`/pages.json` names each folder with a page, and what signs people in; they are served."""
    listing = client.get("/pages.json").json()
    assert listing["pages"] == sorted(page.parent.name for page in WEB.glob("*/page.js"))
    modules = [f"{name}/page.js" for name in listing["pages"]]
    for module in (*modules, listing["sign_in"]["module"]):
        assert client.get(f"/{module}").headers["content-type"].startswith("text/javascript")


def test_beside_a_provider_people_log_in_there(new_sqlite: Callable[[], str]) -> None:
    """What is there with accounts alone has no page; the page may ask the provider, and no other.

    The provider need not answer for that.
    """
    oidc = {"auth_mode": "oidc", "oidc_issuer": "http://127.0.0.1:9/a", "oidc_audience": "us"}
    settings = settings_for(new_sqlite(), **oidc, oidc_client_id="page")
    with (
        RunningServer(settings) as server,
        httpx2.Client(base_url=server.url, timeout=20) as client,
    ):
        listing = client.get("/pages.json").json()
        policy = client.get("/").headers["content-security-policy"]
        module = client.get(f"/{listing['sign_in']['module']}")
    local = {page.parent.name for page in WEB.glob("*/sign-in.js")}
    assert listing == {
        "pages": sorted({page.parent.name for page in WEB.glob("*/page.js")} - local),
        "sign_in": {
            "module": "core/provider.js",
            "issuer": "http://127.0.0.1:9/a",
            "client_id": "page",
            "scope": "openid profile",
            "audience": "us",
        },
    }
    assert "connect-src 'self' http://127.0.0.1:9;" in policy
    assert module.status_code == 200


@pytest.mark.parametrize("path", ["/", "/errors", "/docs"])
def test_a_page_needs_nobody_else(client: httpx2.Client, path: str) -> None:
    """Whatever a page loads is here: no other host, no script within the page, and it is served."""
    page = client.get(path, headers=HTML)
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "unsafe" not in policy
    loaded = re.findall(r"(?:src|href)=\"([^\"#]+)\"", page.text)
    assert loaded
    assert not [address for address in loaded if re.match(r"[a-z]+:|//", address)]
    scripts = re.findall(r"<script([^>]*)>([^<]*)", page.text)
    assert all("src=" in attributes and not body.strip() for attributes, body in scripts)
    assert " style=" not in page.text
    assert not re.search(r"\son[a-z]+=", page.text)
    for address in loaded:
        assert client.get(page.url.join(address)).status_code == 200


@pytest.mark.parametrize("path", ["/core", "/core/", "/.env", "/../pyproject.toml", "/vendor"])
def test_only_files_of_the_page_are_served(client: httpx2.Client, path: str) -> None:
    """A directory is not listed, and nothing beside the page can be had."""
    assert client.get(path).status_code == 404


def test_a_page_that_has_not_changed_is_not_sent_again(client: httpx2.Client) -> None:
    """A file has an ETag, and who has it gets 304."""
    first = client.get("/")
    again = client.get("/", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
