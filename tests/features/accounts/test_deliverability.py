"""New addresses and the DNS: refused only where it says that nothing can be delivered."""

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from dns import rcode

from app.features.accounts.people.deliverability import Deliverability
from tests.dns import Zone, name_server, use_name_server
from tests.features.accounts.holders import outcome
from tests.features.accounts.mailbox import ask
from tests.server import RunningServer

ZONE: Zone = {
    "mail.example.com": {"MX": "10 mx.example.com."},
    "host.example.com": {"A": "192.0.2.1", "AAAA": "2606:2800:220:1::1"},
    "b\xfccher.example.com".encode("idna").decode(): {"MX": "10 mx.example.com."},
    "null.example.com": {"MX": "0 ."},
    "inside.example.com": {"A": "10.0.0.1"},
    "nothing.example.com": {"TXT": '"nothing here"'},
    "web.example.com": {"A": "93.184.216.34", "TXT": '"v=spf1 -all"'},
    "broken.example.com": rcode.SERVFAIL,
    "refused.example.com": rcode.REFUSED,
    "strange.example.com": rcode.YXDOMAIN,
    "silent.example.com": None,
}
TAKEN = ["mail", "host", "b\xfccher", "broken", "refused", "strange", "silent"]
REFUSED = ["null", "inside", "nothing", "web", "unknown"]


@pytest.fixture
def server(serve: Callable[..., RunningServer], tmp_path: Path) -> RunningServer:
    """The service, which asks the DNS."""
    return serve(email_check_dns=True, mail_directory=tmp_path / "mail")


async def test_an_address_is_refused_only_where_the_dns_says_so(server: RunningServer) -> None:
    """No such name, no server, none that can be reached, or none on purpose (RFC 7505)."""
    with name_server(ZONE) as dns:
        use_name_server(server, dns, seconds=0.2)
        async with server.client() as client:
            for host in TAKEN:
                email = f"{uuid4().hex}@{host}.example.com"
                answer = await ask(client, "sign-up", email=email, name="Ann")
                assert answer.status_code == 202, host
            for host in REFUSED:
                email = f"{uuid4().hex}@{host}.example.com"
                answer = await ask(client, "sign-up", email=email, name="Ann")
                assert outcome(answer) == (422, "invalid_parameter"), host
                (error,) = answer.json()["errors"]
                assert (error["loc"], error["type"]) == (["body", "email"], "email_undeliverable")
                assert host not in answer.text


async def test_an_answer_is_remembered(server: RunningServer) -> None:
    """For as long as it says."""
    with name_server(ZONE) as dns:
        use_name_server(server, dns)
        async with server.client() as client:
            for _ in range(2):
                email = f"{uuid4().hex}@mail.example.com"
                assert (await ask(client, "sign-up", email=email, name="Ann")).status_code == 202
        assert dns.asked["mail.example.com"] == 1


async def test_whoever_waits_for_a_silent_dns_waits_so_long(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many questions it takes, and however many wait; then the address is taken."""
    monkeypatch.setattr("app.features.accounts.people.deliverability.CHECK_SECONDS", 0.1)
    with name_server(ZONE) as dns:
        use_name_server(server, dns, seconds=1)
        async with server.client() as client:
            email = f"{uuid4().hex}@silent.example.com"
            assert (await ask(client, "sign-up", email=email, name="Ann")).status_code == 202


def test_it_is_off_unless_it_is_asked_for() -> None:
    """Then nothing is asked of anybody."""
    assert Deliverability(ask=False).resolver is None
