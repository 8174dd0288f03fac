"""An OpenID provider of a test's own: npm's `oidc-provider`, with a machine and an application."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import pytest

from tests.owned import OwnProcess
from tests.redis import free_port
from tests.server import NO_TLS

HERE = Path(__file__).parent / "oidc"
AUDIENCE = "https://duplex.example/api"
SECRET = "a-secret-of-the-tests"
BACK = "http://127.0.0.1/back"
INSTALL = ("install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts")


def _installed() -> Path:
    """The folder of the provider's packages, beside those of other versions; made when needed."""
    wanted = (HERE / "package.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "duplex"
    folder = cache / f"oidc-provider-{hashlib.sha256(wanted).hexdigest()[:16]}"
    if folder.exists():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: a real OpenID provider is not tested with")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as place:
        made = Path(place) / "made"
        made.mkdir()
        (made / "package.json").write_bytes(wanted)
        done = subprocess.run([npm, *INSTALL], cwd=made, capture_output=True, check=False)
        if done.returncode:
            pytest.skip("npm cannot install oidc-provider: it is not tested with")
        if not folder.exists():  # or another process was faster
            made.rename(folder)
    return folder


class OwnProvider(OwnProcess):
    """The provider, at the same port for as long as the block lasts.

    Skips the test where node or npm is missing.
    """

    def __init__(self) -> None:
        node = shutil.which("node")
        if node is None:
            pytest.skip("node is not installed: a real OpenID provider is not tested with")
        self.port = free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        program = str(HERE / "provider.mjs")
        self._command = [node, program, str(_installed()), str(self.port), AUDIENCE]

    def start(self) -> None:
        """Start it, with new keys; returns when it answers."""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._said("ready")

    def rotate(self) -> None:
        """Give it other keys; returns when it has them. The old ones are gone."""
        assert self._process
        assert self._process.stdin
        self._process.stdin.write("rotate\n")
        self._process.stdin.flush()
        self._said("done")

    def machine_token(self, scope: str = "read") -> str:
        """An access token of a machine's own, by the client credentials grant (RFC 6749, 4.4)."""
        return str(
            self._token("machine", grant_type="client_credentials", scope=scope)["access_token"]
        )

    def person_tokens(self, login: str) -> dict[str, Any]:
        """The tokens of a person who signs in in a browser: `access_token` and `id_token`."""
        query = {"response_type": "code", "client_id": "app", "redirect_uri": BACK, "nonce": "n"}
        query |= {"scope": "openid read", "resource": AUDIENCE}
        code = self.sent_back(f"{self.issuer}/auth?{urlencode(query)}", login)["code"]
        return self._token("app", grant_type="authorization_code", code=code, redirect_uri=BACK)

    def sent_back(self, url: str, login: str) -> dict[str, str]:
        """What a person is sent back with who opens `url` in a new browser, and logs in there.

        The login of somebody with an e-mail address is that; it is verified, unless it begins with
        `unverified`.
        """
        with httpx2.Client(base_url=self.issuer, verify=NO_TLS, timeout=20) as browser:
            answer = browser.get(url)
            for form in (
                {"prompt": "login", "login": login, "password": "x"},
                {"prompt": "consent"},
            ):
                page = self._followed(browser, answer)
                found = re.search(r'action="([^"]+)"', page.text)
                assert found, page.text
                answer = browser.post(found[1], data=form)
            back = self._followed(browser, answer).headers["Location"]
        return dict(parse_qsl(urlsplit(back).query))

    def _followed(self, browser: httpx2.Client, answer: httpx2.Response) -> httpx2.Response:
        """Where redirects within the provider lead."""
        here = ("/", f"{self.issuer}/")
        while answer.is_redirect and answer.headers["Location"].startswith(here):
            answer = browser.get(answer.headers["Location"])
        return answer

    def _token(self, client: str, **form: str) -> dict[str, Any]:
        answer = httpx2.post(
            f"{self.issuer}/token",
            data={"resource": AUDIENCE, **form},
            auth=(client, SECRET),
            verify=NO_TLS,
            timeout=20,
        )
        tokens: dict[str, Any] = answer.json()
        assert answer.is_success, tokens
        return tokens

    def _said(self, word: str) -> None:
        assert self._process
        assert self._process.stdout
        assert self._process.stdout.readline().strip() == word, "the provider did not start"
