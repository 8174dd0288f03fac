"""A mail server of a test's own: a real one, over the wire, that keeps what it takes."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.server import DEADLINE

USERNAME, PASSWORD = "ann@example.com", "hunter2/ä?"


@dataclass
class Taken:
    """A message that was handed over, how, and to whom."""

    message: EmailMessage
    recipients: list[str]
    tls: bool
    username: str | None
    greeting: str | None


class MailServer:
    """What a server was handed; `refuse` answers to a recipient, or with None takes it."""

    def __init__(self) -> None:
        self.port = 0
        self.taken: asyncio.Queue[Taken] = asyncio.Queue()
        self.refuse: Callable[[str], str | None] = lambda recipient: None

    async def next(self) -> Taken:
        """The next message that it takes."""
        async with asyncio.timeout(DEADLINE):
            return await self.taken.get()

    def login(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        """Let one in who has the right password."""
        right = data == LoginPassword(USERNAME.encode(), PASSWORD.encode())
        return AuthResult(success=right, handled=False, auth_data=data)

    async def handle_RCPT(  # noqa: N802 - the library's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take a recipient, or not."""
        if refusal := self.refuse(address):
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        """Take a message."""
        content = envelope.content
        assert isinstance(content, bytes)
        self.taken.put_nowait(
            Taken(
                message=message_from_bytes(content, policy=policy.default),
                recipients=envelope.rcpt_tos,
                tls=_is_protected(server.transport),
                username=_name_in(session.auth_data),
                greeting=session.host_name,
            )
        )
        return "250 OK"


def _is_protected(transport: asyncio.BaseTransport | None) -> bool:
    return bool(transport and transport.get_extra_info("ssl_object"))


def _name_in(login: Any) -> str | None:
    return login.login.decode() if isinstance(login, LoginPassword) else None


@asynccontextmanager
async def mail_server(
    *, starttls: ssl.SSLContext | None = None, smtps: ssl.SSLContext | None = None
) -> AsyncIterator[MailServer]:
    """A server on a free port, protected by a certificate from a command on or from the start."""
    handler = MailServer()

    def protocol() -> SMTP:
        return SMTP(
            handler,
            hostname="mail.example",
            tls_context=starttls,
            authenticator=handler.login,
            auth_require_tls=False,
            enable_SMTPUTF8=True,
        )

    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=smtps)
    handler.port = server.sockets[0].getsockname()[1]
    try:
        yield handler
    finally:
        server.close()
