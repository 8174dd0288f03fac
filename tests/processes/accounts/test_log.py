"""The log of a process whose people sign up and log in: no secret of theirs is in it."""

import json

from tests.process import running
from tests.processes.accounts.people import sign_in, sign_up

PASSWORD = "hunter2-the-password"
ACCOUNT = {"email": "ann@example.com", "password": PASSWORD, "name": "Ann"}


def test_no_secret_of_accounts_is_in_the_log() -> None:
    """No password, link or token, at any level; what was refused has its code."""
    with running(LOG_LEVEL="debug", LOG_FORMAT="json") as process:
        begun = sign_up(process, **ACCOUNT)
        for refused in (PASSWORD, "short"):
            given = {"token": PASSWORD, "password": refused}
            process.post("/api/v1/accounts/confirm", json=given)
        pair = sign_in(process, ACCOUNT["email"], PASSWORD)
        sign_in(process, ACCOUNT["email"], PASSWORD + "x")
        headers = {"Authorization": f"Bearer {pair['access_token']}"}
        process.get("/api/v1/accounts/me", headers=headers)
    tokens = [each[kind] for each in (begun, pair) for kind in ("access_token", "refresh_token")]
    signatures = [token.split(".")[-1] for token in tokens]
    for secret in (PASSWORD, *tokens, *signatures, "token=", "Bearer "):
        assert secret not in process.output
    lines = [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]
    asked = [line for line in lines if line["event"] == "request"]
    errors = {(line["path"], line["status"]): line.get("error") for line in asked}
    assert errors["/api/v1/accounts/confirm", 410] == "accounts.link_refused"
    assert errors["/api/v1/accounts/confirm", 422] == "invalid_parameter"
    assert errors["/api/v1/auth/login", 401] == "accounts.wrong_credentials"
    (me,) = [line for line in asked if line["path"] == "/api/v1/accounts/me"]
    assert (me["status"], me["user"]) == (200, "1")
    assert {line["level"] for line in lines} <= {"debug", "info"}
