"""People with accounts: who sign up in a browser, and who use the service without one."""

import hashlib
from typing import Any

import httpx2
from playwright.sync_api import Page, expect

from tests.browser.conftest import settled
from tests.server import NO_TLS

PASSWORD = "correct horse battery staple"


class Somebody:
    """A person with an account who uses the service without a browser."""

    def __init__(self, url: str, name: str) -> None:
        self.email = f"{name.lower()}@example.org"
        self._client = httpx2.Client(base_url=f"{url}/api/v1", timeout=20, verify=NO_TLS)
        asked = self.ask("POST", "/accounts/sign-up", json={"email": self.email, "name": name})
        mail = self.do("GET", f"{url}/development/mail/{asked.headers['X-Development-Mail']}")
        token = mail["links"][0].partition("token=")[2]
        choice = {"token": token, "password": PASSWORD}
        tokens = self.do("POST", "/accounts/confirm", json=choice)
        self._client.headers["Authorization"] = f"Bearer {tokens['access_token']}"

    def do(self, method: str, path: str, **content: Any) -> Any:
        """One request that has to succeed; its JSON."""
        answer = self.ask(method, path, **content)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def ask(self, method: str, path: str, **content: Any) -> httpx2.Response:
        """One request; whatever answers it."""
        return self._client.request(method, path, **content)

    def close(self) -> None:
        """Let the connections go."""
        self._client.close()


def sign_up(page: Page, name: str) -> str:
    """Sign up in a page that shows the form, with the mail it shows; the e-mail address."""
    email = f"{name.lower()}-{hashlib.sha256(page.url.encode()).hexdigest()[:6]}@example.org"
    form = page.locator("#sign-up")
    form.get_by_label("Name").fill(name)
    form.get_by_label("Email").fill(email)
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Follow its link").click()
    choose_password(page)
    expect(page.locator("#user-name")).to_have_text(name)
    settled(page)
    return email


def choose_password(page: Page, password: str = PASSWORD) -> None:
    """Choose a password, by keyboard, where a mailed link has led."""
    box = page.locator("#choose-password").get_by_label("Password")
    expect(box).to_be_focused()
    box.fill(password)
    page.keyboard.press("Enter")
