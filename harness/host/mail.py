# SPDX-License-Identifier: GPL-2.0-only
"""Sends a mail, through the host's sendmail or through SMTP.

A mail is written to a file first: if it cannot be sent, the user has it there.
"""

from __future__ import annotations

import email.utils
import getpass
import os
import re
import smtplib
import socket
import ssl
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

from harness.errors import HostError, Interrupted, UsageError
from harness.host import programs, tools
from harness.host.files import write_atomically

SMTP_PORT = 25
#: Seconds, for the whole of sendmail, and for each answer of an SMTP server.
PATIENCE = 120.0
#: A local user or an address; no option of sendmail, and nothing that ends a header.
_ADDRESS = re.compile(r"[\w.+=/~^!#$%&'*?{}|][\w.+=/~^!#$%&'*?{}|-]*(@[A-Za-z0-9._-]+)?", re.ASCII)


@dataclass(frozen=True)
class Server:
    """An SMTP server."""

    host: str
    port: int = SMTP_PORT

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Mailing:
    """Who gets a mail, from whom, and through what: a server, or the program sendmail."""

    to: tuple[str, ...]
    sender: str
    through: Server | Path


def mailing(to: Sequence[str], sender: str | None, smtp: str | None) -> Mailing | None:
    """The settings of --mail, --mail-from and --smtp; None without --mail. Raises UsageError."""
    addresses = [part.strip() for words in to for part in words.split(",")]
    if not addresses:
        return None
    sender = sender or os.environ.get("EMAIL") or f"{getpass.getuser()}@{socket.getfqdn()}"
    for option, address in [("--mail", a) for a in addresses] + [("--mail-from", sender)]:
        if not _ADDRESS.fullmatch(address):
            raise UsageError(f"{option} {address!r}: give an address such as me@example.org")
    return Mailing(tuple(addresses), sender, _server(smtp) if smtp else _sendmail())


def _server(text: str) -> Server:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", text)
    if match is None or not 0 < int(match[2] or SMTP_PORT) < 65536:
        raise UsageError(f"--smtp {text!r}: give HOST or HOST:PORT")
    return Server(match[1].strip("[]"), int(match[2] or SMTP_PORT))


def _sendmail() -> Path:
    found = tools.find("sendmail")
    if found is None:
        raise UsageError(
            "--mail: this host has no sendmail; install one, such as msmtp-mta, or name a server "
            "with --smtp HOST:PORT"
        )
    return found


def send(message: EmailMessage, mailing: Mailing, file: Path) -> None:
    """Write ``message`` to ``file`` and send it. Raises HostError, which says what failed."""
    message["From"] = mailing.sender
    message["To"] = ", ".join(mailing.to)
    message["Date"] = email.utils.localtime()
    message["Message-ID"] = email.utils.make_msgid("mptcp-harness")
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office reply
    try:
        write_atomically(file, message.as_string())
        match mailing.through:
            case Server() as server:
                _by_smtp(message, mailing, server)
            case sendmail:
                _by_sendmail(mailing, sendmail, file)
    except (OSError, smtplib.SMTPException, subprocess.TimeoutExpired, Interrupted) as error:
        raise HostError(f"--mail: not sent through {mailing.through} ({error})") from error


def _by_smtp(message: EmailMessage, mailing: Mailing, server: Server) -> None:
    with smtplib.SMTP(server.host, server.port, timeout=PATIENCE) as connection:
        connection.ehlo()
        # A server of this host has no certificate for "localhost".
        if connection.has_extn("starttls") and not _is_local(server.host):
            connection.starttls(context=ssl.create_default_context())
        refused = connection.send_message(message, mailing.sender, mailing.to)
        if refused:
            raise smtplib.SMTPRecipientsRefused(refused)


def _is_local(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _by_sendmail(mailing: Mailing, sendmail: Path, file: Path) -> None:
    # -i: a line with one dot does not end the mail.
    command = [str(sendmail), "-i", "-f", mailing.sender, *mailing.to]
    done = programs.run(
        ["/bin/sh", "-c", 'exec "$@" <"$0"', str(file), *command],
        os.environ,
        stop=threading.Event(),  # an interrupted night is reported too
        timeout=PATIENCE,
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-500:]
        raise OSError(f"it ended with status {done.returncode}: {said}")
