"""A name server of a test's own, over UDP, which knows the names that it is given."""

import socketserver
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from dns import flags, message, rcode, rrset
from dns.rdatatype import to_text
from email_validator import caching_resolver

from tests.server import RunningServer

Zone = Mapping[str, Mapping[str, str] | rcode.Rcode | None]


class NameServer(socketserver.ThreadingUDPServer):
    """Answers from `zone`: a name has records by type, an error, or silence (None)."""

    daemon_threads = True

    def __init__(self, zone: Zone) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.zone = zone
        self.asked: Counter[str] = Counter()


class _Answer(socketserver.DatagramRequestHandler):
    def handle(self) -> None:
        server = cast(NameServer, self.server)
        query = message.from_wire(self.rfile.read())
        (question,) = query.question
        name = question.name.to_text(omit_final_dot=True).lower()
        server.asked[name] += 1
        known = server.zone.get(name, rcode.NXDOMAIN)
        if known is None:
            return
        response = message.make_response(query)
        response.flags |= flags.RA
        if isinstance(known, rcode.Rcode):
            response.set_rcode(known)
        elif record := known.get(to_text(question.rdtype)):
            answer = rrset.from_text(question.name, 60, "IN", to_text(question.rdtype), record)
            response.answer.append(answer)
        self.wfile.write(response.to_wire())


@contextmanager
def name_server(zone: Zone) -> Iterator[NameServer]:
    """A server that knows these names; all others do not exist."""
    with NameServer(zone) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def use_name_server(server: RunningServer, dns: NameServer, *, seconds: float = 3) -> None:
    """Let the service ask this name server, and wait so long for its answers."""
    resolver = server.app.state.deliverability.resolver
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = dns.server_address[1]
    caching_resolver(dns_resolver=resolver, timeout=seconds)  # type: ignore[arg-type] # a fraction
