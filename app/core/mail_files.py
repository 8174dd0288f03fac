"""Mail as files, for development: each is a `.eml` in a directory, the newest 200 are kept."""

import email
import email.policy
import re
from email.message import EmailMessage
from pathlib import Path

import anyio.to_thread

NAME = re.compile(r"[0-9]{20}-[0-9a-f]{32}\.eml")
KEPT = 200


def is_name(text: str) -> bool:
    """Whether a file of mail can have this name: no other is looked for."""
    return NAME.fullmatch(text) is not None


class MailFiles:
    """Writes mail to a directory, which is made where it is missing, and reads it.

    Only whoever runs the service can read the files: what a mail says may be a secret.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def write(self, name: str, message: EmailMessage) -> None:
        """Keep a message as the file `name`; written again it is the same file."""
        await anyio.to_thread.run_sync(self._write, name, message.as_bytes())

    async def read(self, name: str) -> EmailMessage | None:
        """The message of a file, None where there is none of this name."""
        if not is_name(name):
            return None
        return await anyio.to_thread.run_sync(self._read, name)

    def _write(self, name: str, content: bytes) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self._directory / f".{name}"
        partial.touch(mode=0o600)
        partial.write_bytes(content)
        partial.replace(self._directory / name)  # whoever looks for it finds all of it
        mails = sorted(file for file in self._directory.iterdir() if is_name(file.name))
        for old in mails[:-KEPT]:
            old.unlink(missing_ok=True)

    def _read(self, name: str) -> EmailMessage | None:
        try:
            content = (self._directory / name).read_bytes()
        except FileNotFoundError:
            return None
        return email.message_from_bytes(content, policy=email.policy.default)
