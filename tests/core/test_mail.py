"""Mail: committed with its cause, sent once by name, over a real mail server or to a file."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from email_validator import EmailNotValidError
from jinja2 import TemplateNotFound, UndefinedError
from pydantic import SecretStr
from sqlalchemy import select
from starlette.datastructures import State

from app.core.db import SqlDatabase
from app.core.errors import Unavailable
from app.core.jobs import JobQueue, JobRow, JobRun
from app.core.mail import TEMPLATES, Mailer, SendMail, send_mail
from app.core.mail import jobs as routes
from app.core.mail_files import KEPT
from app.core.secrets_at_rest import NotOpened
from app.core.settings import Settings
from app.core.smtp import SmtpServer
from tests.conftest import changed_settings
from tests.core.setting_probe import router
from tests.server import RunningServer
from tests.smtp import PASSWORD, USERNAME, MailServer, mail_server

TO = "bob@example.com"
LINK = "http://localhost:8000/#confirm?token=a-secret-of-somebody"
VALUES: dict[str, Any] = {"link": LINK, "hours": 24, "minutes": 60}
DONE: dict[str, Any] = {"at": "today", "device": "<b>", "address": "192.0.2.1", "keys": 2}
SAID = dict.fromkeys(("key", "prefix", "good_until", "scopes", "provider", "roles"), "<b>")


@pytest.fixture
async def db(settings: Settings) -> AsyncIterator[SqlDatabase]:
    """A database, on each engine where the test asks for them."""
    database = SqlDatabase(settings.database)
    yield database
    await database.dispose()


@pytest.fixture
def mailer(settings: Settings, tmp_path: Path) -> Callable[..., Mailer]:
    """Makes a mailer with settings changed by keyword."""

    def make(**changed: Any) -> Mailer:
        changed = {"mail_directory": tmp_path / "mail"} | changed
        return Mailer(
            changed_settings(settings, changed), JobQueue(SqlDatabase(settings.database), routes)
        )

    return make


def at(server: MailServer, scheme: str = "smtp", query: str = "", *, user: str = "") -> SecretStr:
    """The address of a mail server."""
    return SecretStr(f"{scheme}://{user}127.0.0.1:{server.port}{query}")


async def sent(mailer: Mailer, db: SqlDatabase, **changed: Any) -> SendMail:
    """The job of a mail."""
    values = {"to": TO, "template": "sign_up"} | VALUES | changed
    async with db.unit_of_work() as uow:
        mailer.send(uow, **values)
        await uow.flush()
        row = (await uow.scalars(select(JobRow).order_by(JobRow.id.desc()).limit(1))).one()
    return SendMail.model_validate_json(row.payload)


def written(mailer: Mailer, name: str) -> EmailMessage:
    """The mail of a file."""
    message = mailer.files._read(name)
    assert message is not None
    return message


def said(message: EmailMessage, kind: str = "plain") -> str:
    """What a mail says."""
    body = message.get_body((kind,))
    assert body
    text: str = body.get_content()
    return text


@pytest.mark.usefixtures("engine")
async def test_a_mail_is_sent_if_its_cause_commits_and_never_otherwise(
    serve: Callable[..., RunningServer], db: SqlDatabase
) -> None:
    """By the server's jobs, over SMTP, in text and HTML."""
    async with mail_server() as server:
        mailer: Mailer = serve(smtp_url=at(server)).app.state.mail
        with suppress(RuntimeError):
            async with db.unit_of_work() as uow:
                mailer.send(uow, to="eve@example.com", template="sign_up", **VALUES)
                raise RuntimeError
        async with db.unit_of_work() as uow:
            name = mailer.send(uow, to=TO, template="sign_up", **VALUES)
        taken = await server.next()
    assert taken.recipients == [TO]
    assert (taken.tls, taken.username, taken.greeting) == (False, None, "localhost")
    message = taken.message
    assert message["From"] == "Duplex <duplex@localhost>"
    assert (message["To"], message["Subject"]) == (TO, "Choose a password for localhost:8000")
    assert message["Message-ID"] == f"<{name.removesuffix('.eml')}@localhost>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert abs(message["Date"].datetime - datetime.now(UTC)) < timedelta(minutes=1)
    assert LINK in said(message)
    assert said(message, "html").count(LINK) == 3
    assert "Choose a password" not in said(message).splitlines()[0]
    assert server.taken.empty()


async def test_a_repeated_try_is_recognised_by_its_message_id(
    mailer: Callable[..., Mailer], db: SqlDatabase
) -> None:
    """As a file it is the same file; two mails have two."""
    async with mail_server() as server:
        over_smtp = mailer(smtp_url=at(server))
        job, other = await sent(over_smtp, db), await sent(over_smtp, db)
        for each in (job, job, other):
            await over_smtp.deliver(each)
        ids = [(await server.next()).message["Message-ID"] for _ in range(3)]
    assert ids[0] == ids[1] != ids[2]
    files = mailer()
    for each in (job, job, other):
        await files.deliver(each)
    assert written(files, job.mail)["Message-ID"] == ids[0]
    assert len(list(files.files._directory.iterdir())) == 2


@pytest.fixture
def certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The certificate of a server at 127.0.0.1, which this machine trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail.example")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (tmp_path / "certificate").write_bytes(certificate.public_bytes(pem))
    (tmp_path / "key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    return context


async def test_tls_and_a_password_are_used_as_the_address_says(
    mailer: Callable[..., Mailer], db: SqlDatabase, certified: ssl.SSLContext
) -> None:
    """From the first byte, or from STARTTLS on; a password may hold any character."""
    user = f"{quote(USERNAME, safe='')}:{quote(PASSWORD, safe='')}@"
    job = await sent(mailer(), db)
    async with (
        mail_server(starttls=certified) as starttls,
        mail_server(smtps=certified) as smtps,
        mail_server() as plain,
    ):
        for server, url in (
            (starttls, at(starttls, query="?starttls", user=user)),
            (smtps, at(smtps, "smtps", user=user)),
            (plain, at(plain, user=user)),
        ):
            await mailer(smtp_url=url).deliver(job)
            taken = await server.next()
            assert (taken.tls, taken.username) == (server is not plain, USERNAME)


async def test_what_the_server_does_not_take_is_tried_again(
    mailer: Callable[..., Mailer],
    db: SqlDatabase,
    certified: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong password, no TLS where it is asked for, a strange certificate, nobody, later."""
    job = await sent(mailer(), db)

    async def refusal(url: SecretStr) -> str:
        with pytest.raises(Unavailable) as raised:
            await mailer(smtp_url=url).deliver(job)
        assert raised.value.detail
        return raised.value.detail

    async with mail_server() as plain, mail_server(smtps=certified) as smtps:
        wrong = await refusal(at(plain, user="ann:hunter3@"))
        assert wrong == "The mail server answered 535."
        assert "SMTPException" in await refusal(at(plain, query="?starttls"))
        plain.refuse = lambda recipient: "451 Come back later, bob@example.com"
        assert await refusal(at(plain)) == "The mail server answered 451."
        monkeypatch.delenv("SSL_CERT_FILE")
        assert "SMTPConnectError" in await refusal(at(smtps, "smtps"))
        assert plain.taken.empty()
        assert smtps.taken.empty()
        nobody = plain.port
    assert "SMTPConnectError" in await refusal(SecretStr(f"smtp://127.0.0.1:{nobody}"))


async def test_a_server_that_says_nothing_holds_no_job_up(
    mailer: Callable[..., Mailer], db: SqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers are waited for so long and no longer."""
    monkeypatch.setattr("app.core.smtp.ANSWER_SECONDS", 0.05)
    released = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        mute = mailer(smtp_url=SecretStr(f"smtp://127.0.0.1:{port}"))
        with pytest.raises(Unavailable, match="Timeout"):
            await mute.deliver(await sent(mute, db))
        released.set()


async def test_an_address_that_is_refused_for_good_is_not_tried_again(
    mailer: Callable[..., Mailer], db: SqlDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """The job is done; the log has the server's answer, and neither address nor text."""
    async with mail_server() as server:
        over_smtp = mailer(smtp_url=at(server))
        server.refuse = lambda recipient: "550 No such user"
        with caplog.at_level(logging.WARNING):
            await over_smtp.deliver(await sent(over_smtp, db))
        assert server.taken.empty()
    assert "550" in caplog.text
    assert TO not in caplog.text


async def test_a_mail_that_is_over_is_not_sent(
    mailer: Callable[..., Mailer], db: SqlDatabase
) -> None:
    """A link that is good no more is worth no mail, and need not stay in the database."""
    files = mailer()
    over = await sent(files, db, until=datetime.now(UTC))
    good = await sent(files, db, until=datetime.now(UTC) + timedelta(minutes=1))
    state = State({"mail": files})
    for job in (over, good):
        async with db.unit_of_work() as uow:
            await send_mail(job, JobRun(uow, state, 1, 1))
    assert [file.name for file in files.files._directory.iterdir()] == [good.mail]


async def test_what_a_mail_says_cannot_be_read_in_the_database_or_the_log(
    mailer: Callable[..., Mailer], db: SqlDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """It is encrypted, for this mail and by SECRET_KEY; no line has it at any level."""
    with caplog.at_level(logging.DEBUG):
        files = mailer()
        job = await sent(files, db)
        await files.deliver(job)
        async with mail_server() as server:
            await mailer(smtp_url=at(server)).deliver(job)
    async with db.reading() as session:
        (payload,) = await session.scalars(select(JobRow.payload))
    ours = [record for record in caplog.records if record.name != "mail.log"]  # the server's
    for secret in ("a-secret-of-somebody", TO):
        assert secret not in payload
        assert not [record for record in ours if secret in record.getMessage()]
    moved = job.model_copy(update={"mail": Mailer.new_name()})
    with pytest.raises(NotOpened):
        await files.deliver(moved)
    with pytest.raises(NotOpened):
        await mailer(secret_key=SecretStr("another secret of the tests, as long")).deliver(job)


@pytest.mark.parametrize(
    "address",
    [
        *("bob", "Bob <bob@example.com>", "bob@example.com\r\nBcc: eve@example.com"),
        *("bob@example.com,eve@example.com", "bob@example.com\n", "", "bob\0@example.com"),
    ],
)
async def test_what_is_no_address_gets_no_mail(
    mailer: Callable[..., Mailer], db: SqlDatabase, address: str
) -> None:
    """So no header can be slipped in by it."""
    async with db.unit_of_work() as uow:
        with pytest.raises(EmailNotValidError):
            mailer().send(uow, to=address, template="no_account")
    async with db.reading() as session:
        assert (await session.scalars(select(JobRow))).all() == []


async def test_addresses_in_any_script_get_mail(
    mailer: Callable[..., Mailer], db: SqlDatabase
) -> None:
    """By SMTPUTF8 (RFC 6531), and the domain as the DNS has it."""
    ascii_domain = "bob@xn--bcher-kva.example"
    addresses = {"bücher@example.com": "bücher@example.com", "bob@bücher.example": ascii_domain}
    async with mail_server() as server:
        over_smtp = mailer(smtp_url=at(server))
        for address, reached in addresses.items():
            await over_smtp.deliver(await sent(over_smtp, db, to=address))
            taken = await server.next()
            assert (taken.recipients, taken.message["To"]) == ([reached], reached)
            assert LINK in said(taken.message)


def test_every_template_has_a_subject_a_text_and_html(mailer: Callable[..., Mailer]) -> None:
    """Each says where it comes from; what is put into HTML is escaped; values have to be there."""
    names = {file.stem for file in TEMPLATES.iterdir() if not file.name.startswith("_")}
    assert names == {file.stem for file in TEMPLATES.glob("[!_]*.txt")}
    make = mailer(public_url="https://a.example/app").message
    hostile = VALUES | DONE | SAID | {"link": "https://a.example/app/#confirm?token=<b>&x"}
    for template in names:
        message = make(Mailer.new_name(), template, to=TO, values=hostile)
        assert "a.example" in message["Subject"]
        assert 20 < len(message["Subject"]) < 80
        text, html = said(message), said(message, "html")
        assert "a.example" in text
        assert "a.example" in html
        assert "<b>" not in html
        assert all(len(line) <= 100 for line in text.splitlines())
        assert text.count("token=<b>") == html.count("token=&lt;b&gt;&amp;x") / 3
        assert f"<{message['Message-ID'].strip('<>')}>".endswith("@a.example>")
    with pytest.raises(UndefinedError):
        make(Mailer.new_name(), "sign_up", to=TO, values={})


async def test_a_template_that_is_not_there_is_said_at_once(
    mailer: Callable[..., Mailer], db: SqlDatabase
) -> None:
    """To whoever wants it sent, and not to a job."""
    async with db.unit_of_work() as uow:
        with pytest.raises(TemplateNotFound):
            mailer().send(uow, to=TO, template="nothing")


async def test_the_newest_files_are_kept_and_only_their_owner_can_read_them(
    mailer: Callable[..., Mailer],
) -> None:
    """200 of them; what else is in the directory is left alone."""
    files = mailer()
    directory = files.files._directory
    directory.mkdir()
    (directory / "notes.eml").touch()
    for number in range(KEPT):
        (directory / f"2000010100000000{number:04}-{'0' * 32}.eml").touch()
    name = Mailer.new_name()
    await files.files.write(name, files.message(name, "no_account", to=TO, values={}))
    left = sorted(file.name for file in directory.iterdir())
    assert len(left) == KEPT + 1
    assert left[0].startswith("20000101000000000001-")
    assert left[-2:] == [name, "notes.eml"]
    assert (directory / name).stat().st_mode & 0o777 == 0o600


async def test_in_development_whoever_causes_a_mail_is_shown_it(
    serve: Callable[..., RunningServer], tmp_path: Path
) -> None:
    """The answer names the file, and the service shows it as soon as it is there."""
    server = serve(router, environment="development", mail_directory=tmp_path / "mail")
    async with server.client() as client:
        answer = await client.post("/probe/mail")
        name = answer.headers["X-Development-Mail"]
        shown = await client.get(f"/development/mail/{name}")
        assert shown.status_code == 200
        mail = shown.json()
        assert mail.keys() == {"subject", "to", "text", "links"}
        subject = "Choose a password for localhost:8000"
        assert (mail["subject"], mail["to"]) == (subject, "ann@example.com")
        (link,) = mail["links"]
        assert link == "http://localhost:8000/#confirm?token=secret"
        assert link in mail["text"]
        assert (tmp_path / "mail" / name).exists()
        for other in ("nothing", "..%2Ftest.db", "%2e%2e", f"{name}x"):
            assert (await client.get(f"/development/mail/{other}")).status_code == 404


async def test_nobody_else_is_shown_any(serve: Callable[..., RunningServer]) -> None:
    """Where there is a mail server; and production does not start without."""
    async with mail_server() as smtp:
        for changed in (
            {"environment": "development", "smtp_url": at(smtp)},
            {"environment": "production", "smtp_url": at(smtp)},
        ):
            server = serve(router, **changed)
            async with server.client() as client:
                answer = await client.post("/probe/mail")
                assert answer.status_code == 202
                assert "X-Development-Mail" not in answer.headers
                shown = await client.get(f"/development/mail/{Mailer.new_name()}")
                assert shown.status_code == 404
                assert shown.json()["code"] == "not_found"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://a.example", ("a.example", 25, "smtp", None, None)),
        ("smtp://a.example?starttls", ("a.example", 587, "starttls", None, None)),
        ("smtps://a.example/", ("a.example", 465, "smtps", None, None)),
        ("smtp://u%40b:p%2F@[::1]:2525", ("::1", 2525, "smtp", "u@b", "p/")),
    ],
)
def test_the_address_of_a_mail_server_is_read(url: str, expected: tuple[Any, ...]) -> None:
    """With the port that belongs to the kind, where it names none; its password is not shown."""
    server = SmtpServer.at(url)
    found = (server.host, server.port, server.protection, server.username, server.password)
    assert found == expected
    assert "p/" not in repr(server)
