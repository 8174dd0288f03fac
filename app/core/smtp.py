"""A mail server as SMTP_URL names it, and how a message is handed to it (RFC 5321)."""

import asyncio
import ssl
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Literal, Self
from urllib.parse import unquote, urlsplit

from app.core.errors import Unavailable

PORTS = {"smtp": 25, "starttls": 587, "smtps": 465}
ANSWER_SECONDS = 10  # for one answer of the server
SEND_SECONDS = 25  # for all of it


class RecipientRefused(Exception):
    """The server will never take mail for this address; `code` is its answer, as 550."""

    def __init__(self, code: int) -> None:
        super().__init__(f"The mail server answered {code} to the recipient.")
        self.code = code


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where mail is handed to: by `smtps` from the first byte, by `starttls` from a command on."""

    host: str
    port: int
    protection: Literal["smtp", "starttls", "smtps"]
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def at(cls, url: str) -> Self:
        """The server of `smtp://user:password@host:port`, `…?starttls` or `smtps://…`.

        Raises ValueError, which may quote a part of it.
        """
        parts = urlsplit(url)
        protection = parts.query or parts.scheme
        if (
            (parts.scheme, protection)
            not in {("smtp", "smtp"), ("smtp", "starttls"), ("smtps", "smtps")}
            or not parts.hostname
            or parts.path.strip("/")
            or parts.fragment
        ):
            raise ValueError("It is not smtp://host:port, smtp://host:port?starttls or smtps://.")
        return cls(
            host=parts.hostname,
            port=parts.port or PORTS[protection],
            protection=protection,  # type: ignore[arg-type]
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
        )

    @property
    def protects_password(self) -> bool:
        """Whether there is no password, or nobody on the way can read it."""
        return self.password is None or self.protection != "smtp"

    def tls(self) -> ssl.SSLContext | None:
        """What a connection is protected by, for `send`; it takes a while to make."""
        return None if self.protection == "smtp" else ssl.create_default_context()

    async def send(
        self, message: EmailMessage, to: str, *, greeting: str, tls: ssl.SSLContext | None
    ) -> None:
        """Hand a message over, in 25 seconds at most.

        Args:
            message: with all its headers.
            to: the address that it goes to.
            greeting: the name of this machine, for EHLO.
            tls: of `tls()`.

        Raises Unavailable where the same may succeed later, RecipientRefused where it will not.
        What the server says is not passed on, since it may quote the message; its code is.
        """
        import aiosmtplib  # noqa: PLC0415 - only who has a mail server loads its library

        try:
            async with asyncio.timeout(SEND_SECONDS):
                await aiosmtplib.send(
                    message,
                    recipients=[to],
                    hostname=self.host,
                    port=self.port,
                    username=self.username,
                    password=self.password,
                    use_tls=self.protection == "smtps",
                    start_tls=self.protection == "starttls",
                    tls_context=tls,
                    local_hostname=greeting,
                    timeout=ANSWER_SECONDS,
                )
        except aiosmtplib.SMTPRecipientsRefused as refused:
            (recipient,) = refused.recipients
            if recipient.code >= 500:
                raise RecipientRefused(recipient.code) from None
            raise Unavailable(f"The mail server answered {recipient.code}.") from None
        except aiosmtplib.SMTPResponseException as error:
            raise Unavailable(f"The mail server answered {error.code}.") from None
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            name = type(error).__name__
            raise Unavailable(f"The mail server cannot be used: {name}.") from None
