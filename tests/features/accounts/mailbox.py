"""What the server has mailed, for the tests of accounts: mail is a file there."""

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from typing import Any

import httpx2
from sqlalchemy import event

from app.core.caller import current_caller
from tests.server import DEADLINE, RunningServer

API = "/api/v1/accounts"


class Mailbox:
    """All mail of a server from now on."""

    def __init__(self, server: RunningServer) -> None:
        self._mails: list[EmailMessage] = []
        self._changed = threading.Condition()
        self._files = server.app.state.mail.files
        self._write = self._files.write
        self._files.write = self._watched

    async def _watched(self, name: str, message: EmailMessage) -> None:
        await self._write(name, message)
        with self._changed:
            self._mails.append(message)
            self._changed.notify_all()

    def to(self, address: str) -> list[EmailMessage]:
        """What has come for an address by now, in any case."""
        with self._changed:
            return [mail for mail in self._mails if mail["To"].upper() == address.upper()]

    async def mail(self, address: str, number: int = 1) -> EmailMessage:
        """The mail of this number that comes for an address, once it has come."""

        def wait() -> EmailMessage:
            with self._changed:
                come = self._changed.wait_for(lambda: len(self.to(address)) >= number, DEADLINE)
                assert come, f"no mail came to {address}"
                return self.to(address)[number - 1]

        return await asyncio.to_thread(wait)

    async def token(self, address: str, number: int = 1) -> str:
        """The token of the link in that mail."""
        return token_in(await self.mail(address, number))


def text_of(mail: EmailMessage) -> str:
    """What a mail says to whoever reads text."""
    body = mail.get_body(("plain",))
    assert body
    text: str = body.get_content()
    return text


def token_in(mail: EmailMessage) -> str:
    """The token of the link in a mail."""
    link = r"^http://localhost:8000/#(confirm|reset|email)\?token=(\S+)$"
    found = re.search(link, text_of(mail), re.MULTILINE)
    assert found, text_of(mail)
    return found[2]


async def ask(client: httpx2.AsyncClient, path: str, **json: Any) -> httpx2.Response:
    """The answer to a POST about accounts."""
    return await client.post(f"{API}/{path}", json=json)


@contextmanager
def statements(server: RunningServer, agent: str) -> Iterator[list[str]]:
    """The statements that the server runs for requests of this agent, in the block."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if current_caller().agent == agent:
            seen.append(statement)

    engine = server.app.state.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)
