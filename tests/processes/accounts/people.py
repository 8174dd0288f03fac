"""People who sign up and log in at a process."""

from typing import Any

from tests.process import Process


def sign_up(process: Process, *, email: str, password: str, name: str) -> dict[str, Any]:
    """Make an account with the link of the mail, which the process shows in development.

    Returns the account and the tokens of its first session.
    """
    asked = process.post("/api/v1/accounts/sign-up", json={"email": email, "name": name})
    mail = process.get(f"/development/mail/{asked.headers['X-Development-Mail']}").json()
    token = mail["links"][0].partition("token=")[2]
    choice = {"token": token, "password": password}
    made = process.post("/api/v1/accounts/confirm", json=choice)
    assert made.status_code == 201, made.text
    confirmed: dict[str, Any] = made.json()
    return confirmed


def sign_in(process: Process, email: str, password: str) -> dict[str, Any]:
    """Begin a session; returns its tokens."""
    form = {"username": email, "password": password}
    pair: dict[str, Any] = process.post("/api/v1/auth/login", data=form).json()
    return pair
