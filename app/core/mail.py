"""Mail: committed with its cause, sent afterwards by a job, and told from its repetitions.

    name = mail.send(uow, to=user.email, template="password_changed")

Templates are in app/mail, a `.txt` whose first line is the subject and a `.html` for each. With
SMTP_URL a mail is handed to that server; without it, in development, it is a file in
MAIL_DIRECTORY, which `GET /development/mail/{name}` shows.

What a mail says may be a secret, such as a link that opens something. It is in the database as
long as the job of the mail is, encrypted; in no line of the log; and never sent once it is over.
"""

import asyncio
import json
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from email_validator import validate_email
from fastapi import APIRouter, Depends
from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined, select_autoescape
from starlette.requests import HTTPConnection

from app.core.db import UnitOfWork
from app.core.errors import NotFound
from app.core.jobs import Job, JobQueue, JobRoutes, JobRun
from app.core.mail_files import MailFiles, is_name
from app.core.observability import log
from app.core.schemas import Schema
from app.core.secrets_at_rest import Sealed
from app.core.smtp import RecipientRefused

if TYPE_CHECKING:
    from app.core.settings import Settings

TEMPLATES = Path(__file__).parent.parent / "mail"
SHOWN_AFTER_SECONDS = 5.0  # as long is waited for a mail to be written
LOOK_SECONDS = 0.02

jobs = JobRoutes()
development = APIRouter(prefix="/development", include_in_schema=False)


class SendMail(Job):
    """A mail that is to be sent; `sealed` is whom to, and what it says."""

    name = "core.send_mail"
    mail: str  # the same in every try
    template: str
    sealed: str
    until: datetime | None


class Mailer:
    """Writes and sends the mail of the service.

    Args:
        settings: whom it is from, where it goes, and what its links begin with.
        jobs: the queue that sends it.
    """

    def __init__(self, settings: "Settings", jobs: JobQueue) -> None:
        #: What links begin with; a fragment may follow: `f"{mail.public_url}/#reset?token=…"`.
        self.public_url = settings.public_url
        #: Whether whoever causes a mail is shown it.
        self.is_shown = settings.environment != "production" and settings.smtp_url is None
        self.files = MailFiles(settings.mail_directory)
        self._server = settings.smtp
        self._tls = self._server.tls() if self._server else None
        self._from = settings.mail_from
        self._jobs = jobs
        self._sealed = Sealed(settings.secret_key.get_secret_value())
        loader = FileSystemLoader(TEMPLATES)
        self._templates = Templates(
            loader=loader,
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
        )
        place = urlsplit(self.public_url)
        self._host = place.hostname or "localhost"
        self._templates.globals |= {"service": place.netloc, "home": f"{self.public_url}/"}

    def send(
        self,
        uow: UnitOfWork,
        *,
        to: str,
        template: str,
        name: str | None = None,
        until: datetime | None = None,
        **values: str | int,
    ) -> str:
        """Have a mail sent once `uow` has committed; returns its name.

        Args:
            uow: the unit of work that causes it.
            to: the address it goes to.
            template: its file in app/mail, without the suffix.
            name: as `new_name` gave it, where it has to be known before.
            until: it is not sent after this moment, as when its link is over.
            values: what the template takes.

        Raises ValueError for what is no address, and TemplateNotFound.
        """
        valid = validate_email(to, check_deliverability=False)
        to = f"{valid.local_part}@{valid.ascii_domain}"  # more servers take that of a domain
        self._templates.get_template(f"{template}.txt")
        name = name or self.new_name()
        said = json.dumps({"to": to, "values": values})
        sealed = self._sealed.seal(said.encode(), f"mail/{name}")
        self._jobs.enqueue(uow, SendMail(mail=name, template=template, sealed=sealed, until=until))
        return name

    @staticmethod
    def new_name() -> str:
        """A name for a mail, that sorts by time and nobody guesses: of its file and Message-ID."""
        return f"{datetime.now(UTC):%Y%m%d%H%M%S%f}-{secrets.token_hex(16)}.eml"

    def shown(self, name: str) -> Mapping[str, str]:
        """The headers of an answer whose request has caused a mail; none but in development."""
        return {"X-Development-Mail": name} if self.is_shown else {}

    async def deliver(self, job: SendMail) -> None:
        """Send the mail of a job. Raises Unavailable where the server does not take it now."""
        said = json.loads(self._sealed.open(job.sealed, f"mail/{job.mail}"))
        message = self.message(job.mail, job.template, to=said["to"], values=said["values"])
        if self._server is None:
            await self.files.write(job.mail, message)
            return
        try:
            await self._server.send(message, said["to"], greeting=self._host, tls=self._tls)
        except RecipientRefused as refused:
            # An address that somebody has mistyped: to try again would not help.
            log.warning("mail refused", mail=job.mail, code=refused.code)

    def message(
        self, name: str, template: str, *, to: str, values: Mapping[str, str | int]
    ) -> EmailMessage:
        """A mail with its headers, in text and HTML; the same name is the same Message-ID."""
        text = self._templates.get_template(f"{template}.txt").render(values)
        html = self._templates.get_template(f"{template}.html").render(values)
        subject, _, body = text.partition("\n")
        message = EmailMessage(policy=SMTP if to.isascii() else SMTPUTF8)
        message["From"] = self._from
        local_part, _, domain = to.rpartition("@")
        message["To"] = Address(username=local_part, domain=domain)
        message["Subject"] = subject
        message["Date"] = datetime.strptime(name[:20], "%Y%m%d%H%M%S%f").replace(tzinfo=UTC)
        message["Message-ID"] = f"<{name.removesuffix('.eml')}@{self._host}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no machine is to answer
        message.set_content(body.strip() + "\n")
        message.add_alternative(html, subtype="html")
        return message


@jobs.on(SendMail)
async def send_mail(job: SendMail, run: JobRun) -> None:
    """Send a mail, unless it is over."""
    if job.until is not None and job.until <= datetime.now(UTC):
        log.warning("mail is over", mail=job.mail, template=job.template)
        return
    mailer: Mailer = run.state.mail
    await mailer.deliver(job)


async def _mail(connection: HTTPConnection) -> Mailer:
    mailer: Mailer = connection.app.state.mail
    return mailer


Mail = Annotated[Mailer, Depends(_mail)]
"""The mail of the service, injected: `mail.send(uow, to=…, template=…)`."""


class ShownMail(Schema):
    """A mail, as development shows it to whoever caused it."""

    subject: str
    to: str
    text: str
    links: list[str]


@development.get("/mail/{name}")
async def show_mail(mail: Mail, name: str) -> ShownMail:
    """The mail that an answer named in `X-Development-Mail`, as soon as it is written."""
    if not is_name(name):
        raise NotFound("There is no mail of this name.")
    for _ in range(round(SHOWN_AFTER_SECONDS / LOOK_SECONDS)):
        message = await mail.files.read(name)
        if message is not None:
            return _shown(message, mail.public_url)
        # Whichever process works on the jobs writes it.
        await asyncio.sleep(LOOK_SECONDS)
    raise NotFound("There is no mail of this name.")


def _shown(message: EmailMessage, public_url: str) -> ShownMail:
    body = message.get_body(("plain",))
    text: str = body.get_content().replace("\r\n", "\n") if body else ""
    links = re.findall(rf"^{re.escape(public_url)}/\S+$", text, re.MULTILINE)
    return ShownMail(subject=message["Subject"], to=message["To"], text=text, links=links)
