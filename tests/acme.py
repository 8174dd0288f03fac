"""A certificate authority and a proxy of a test's own: pebble, its DNS, and Caddy.

pebble is the test server of Let's Encrypt: it asks for what it is shown as they do.
"""

import json
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.process import ROOT, environment
from tests.redis import free_port

CADDYFILE = ROOT / "deploy" / "caddy" / "Caddyfile"
DOMAIN = "duplex.test"
SECONDS = 60  # for a certificate to come: Caddy tries again by itself


def program(name: str) -> str:
    """Where a program is; skips the test where it is not."""
    found = shutil.which(name) or shutil.which(f"/usr/sbin/{name}")
    if found is None:
        pytest.skip(f"{name} is not installed: certificates from an authority are not tested")
    return found


class Authority:
    """pebble, at ports of its own, with a DNS in which every name is this machine.

    Args:
        place: a directory of its own.
        http_port: where it looks for what it has asked for over HTTP.
        https_port: the same over TLS.
    """

    def __init__(self, place: Path, *, http_port: int, https_port: int) -> None:
        self._port, self._management, self._dns = free_port(), free_port(), free_port()
        self.url = f"https://127.0.0.1:{self._port}/dir"
        #: What its own interface is trusted by.
        self.certificate = place / "authority.pem"
        self._log = place / "authority.log"
        key = place / "authority.key"
        _self_signed(self.certificate, key)
        self._configuration = place / "pebble.json"
        self._configuration.write_text(
            json.dumps(
                {
                    "pebble": {
                        "listenAddress": f"127.0.0.1:{self._port}",
                        "managementListenAddress": f"127.0.0.1:{self._management}",
                        "certificate": str(self.certificate),
                        "privateKey": str(key),
                        "httpPort": http_port,
                        "tlsPort": https_port,
                        "ocspResponderURL": "",
                        "externalAccountBindingRequired": False,
                    }
                }
            )
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """It answers while the block lasts."""
        dns = f"127.0.0.1:{self._dns}"
        commands = (
            [program("pebble-challtestsrv"), "-dns01", dns, "-defaultIPv6", "", "-management", "",
             "-http01", "", "-https01", "", "-tlsalpn01", ""],
            [program("pebble"), "-config", str(self._configuration), "-dnsserver", dns, "-strict"],
        )  # fmt: skip
        with _process(commands[0], self._log), _process(commands[1], self._log):
            until_it_answers(self.root, self._log)
            yield

    def root(self) -> ssl.SSLContext:
        """What trusts its certificates and no others."""
        own = ssl.create_default_context(cafile=str(self.certificate))
        address = f"https://127.0.0.1:{self._management}/roots/0"
        root = httpx2.get(address, verify=own, trust_env=False).raise_for_status().text
        return ssl.create_default_context(cadata=root)


@contextmanager
def proxy(
    place: Path, authority: Authority, *, upstream: int, http_port: int, https_port: int
) -> Iterator[Path]:
    """Caddy with the repository's Caddyfile, in front of a port of this machine. Yields its log."""
    changes = {
        r"\n\tadmin off\n": f"\n\tadmin off\n\tacme_ca {authority.url}\n",
        r"(\n\t\tto [^\n]+)+": f"\n\t\tto 127.0.0.1:{upstream}",
        r"\nhttp://127\.0\.0\.1:2020 ": f"\nhttp://127.0.0.1:{free_port()} ",
    }
    text = CADDYFILE.read_text()
    for before, after in changes.items():
        text, times = re.subn(before, after, text)
        assert times == 1, before
    (place / "Caddyfile").write_text(text)
    variables = {
        "DOMAIN": DOMAIN,
        "HTTP_PORT": str(http_port),
        "HTTPS_PORT": str(https_port),
        "PUBLIC_URL": f"https://{DOMAIN}:{https_port}",
        "SSL_CERT_FILE": str(authority.certificate),
        "HOME": str(place),
        "XDG_DATA_HOME": str(place),
        "XDG_CONFIG_HOME": str(place),
    }
    command = [
        program("caddy"),
        "run",
        "--adapter",
        "caddyfile",
        "--config",
        str(place / "Caddyfile"),
    ]
    log = place / "caddy.log"
    with _process(command, log, **variables):
        yield log


@contextmanager
def _process(command: list[str], log: Path, **variables: str) -> Iterator[None]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=environment(PEBBLE_VA_NOSLEEP="1", **variables),
            cwd=log.parent,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def until_it_answers(ask: Callable[[], object], log: Path) -> None:
    """Ask until there is an answer; where none comes in time, fails with what was logged."""
    deadline = time.monotonic() + SECONDS
    while True:
        with suppress(httpx2.TransportError):
            ask()
            return
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def _self_signed(certificate: Path, key: Path) -> None:
    """Write a certificate for this machine, and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(private, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    certificate.write_bytes(made.public_bytes(pem))
    unsealed = serialization.NoEncryption()
    key.write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, unsealed))
