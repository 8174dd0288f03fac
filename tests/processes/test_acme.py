"""TLS for a name from an authority, by the repository's own Caddyfile: HTTPS and WSS."""

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import pytest
from websockets.asyncio.client import connect

from tests.acme import DOMAIN, Authority, proxy, until_it_answers
from tests.process import running, token
from tests.redis import free_port


@dataclass
class Site:
    """The service behind Caddy, with a certificate of the authority."""

    http_port: int
    https_port: int
    trusted: ssl.SSLContext

    def get(self, path: str) -> httpx2.Response:
        """Ask for something by HTTPS."""
        with httpx2.Client(verify=self.trusted, trust_env=False) as client:
            return client.request(
                "GET",
                f"https://127.0.0.1:{self.https_port}{path}",
                headers={"Host": f"{DOMAIN}:{self.https_port}"},
                extensions={"sni_hostname": DOMAIN},
            )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The service, once Caddy has got its certificate."""
    place = tmp_path_factory.mktemp("acme")
    ports = {"http_port": free_port(), "https_port": free_port()}
    authority = Authority(place, **ports)
    url = f"https://{DOMAIN}:{ports['https_port']}"
    with (
        authority.running(),
        running(ALLOWED_HOSTS=f"{DOMAIN},127.0.0.1", PUBLIC_URL=url) as service,
        proxy(place, authority, upstream=int(service.url.rsplit(":")[-1]), **ports) as log,
    ):
        made = Site(**ports, trusted=authority.root())
        until_it_answers(lambda: made.get("/health/live"), log)
        yield made


def test_it_is_served_by_https_with_a_certificate_of_the_authority(site: Site) -> None:
    """The name is verified against the authority's root, and browsers are told to stay."""
    answer = site.get("/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


async def test_a_websocket_is_served_by_wss(site: Site) -> None:
    """It goes through the proxy with its token."""
    async with connect(
        f"wss://{DOMAIN}:{site.https_port}/probe",
        host="127.0.0.1",
        port=site.https_port,
        ssl=site.trusted,
        additional_headers={"Authorization": f"Bearer {token()}"},
        proxy=None,
    ) as socket:
        certificate = socket.transport.get_extra_info("peercert")
        async with asyncio.timeout(10):
            await (await socket.ping())
    names = [value for _, value in certificate["subjectAltName"]]
    issuer = dict(pair for (pair,) in certificate["issuer"])
    assert names == [DOMAIN]
    assert issuer["commonName"].startswith("Pebble Intermediate CA")


def test_http_leads_to_https(site: Site) -> None:
    """At the address that people open, with path and query."""
    answer = httpx2.get(
        f"http://127.0.0.1:{site.http_port}/docs?x=1",
        headers={"Host": DOMAIN},
        follow_redirects=False,
        trust_env=False,
    )
    assert answer.status_code == 308
    assert answer.headers["Location"] == f"https://{DOMAIN}:{site.https_port}/docs?x=1"
