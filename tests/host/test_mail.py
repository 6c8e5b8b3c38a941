# SPDX-License-Identifier: GPL-2.0-only
"""Mail through a sendmail and through an SMTP server, both of the test's own."""

from __future__ import annotations

import email
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from harness.errors import HostError, UsageError
from harness.host import mail
from harness.host.mail import Mailing, Server

#: Keeps its arguments and its input.
SENDMAIL = """\
#!/bin/sh
printf '%s\\n' "$@" >{directory}/arguments
cat >{directory}/input
echo {said} >&2
exit {status}
"""


def message() -> EmailMessage:
    made = EmailMessage(policy.default.clone(cte_type="7bit"))
    made["Subject"] = "1 newly wrong"
    made.set_content("a line\n.\n" + "ü" * 2000 + "\n")
    made.add_attachment("<p>ü</p>", subtype="html", filename="nightly.html")
    return made


def read(content: bytes) -> EmailMessage:
    found = email.message_from_bytes(content, policy=policy.default)
    assert isinstance(found, EmailMessage)
    return found


def check_content(found: EmailMessage) -> None:
    assert found["Subject"] == "1 newly wrong"
    assert found["Date"].datetime.tzinfo is not None
    assert found["Auto-Submitted"] == "auto-generated"
    body = found.get_body(("plain",))
    assert body is not None
    assert body.get_content().splitlines() == ["a line", ".", "ü" * 2000]
    (attached,) = found.iter_attachments()
    assert attached.get_filename() == "nightly.html"
    assert attached.get_content_type() == "text/html"
    assert attached.get_content().splitlines() == ["<p>ü</p>"]


def sendmail(directory: Path, status: int = 0) -> Mailing:
    program = directory / "sendmail"
    program.write_text(SENDMAIL.format(directory=directory, status=status, said="no queue"))
    program.chmod(0o755)
    return Mailing(("a@example.org", "root"), "me@example.org", program)


def test_sendmail_gets_the_recipients_and_the_whole_mail(tmp_path: Path) -> None:
    mail.send(message(), sendmail(tmp_path), tmp_path / "mail.eml")
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments == ["-i", "-f", "me@example.org", "a@example.org", "root"]
    found = read((tmp_path / "input").read_bytes())
    assert (found["From"], found["To"]) == ("me@example.org", "a@example.org, root")
    check_content(found)
    longest = max(map(len, (tmp_path / "input").read_bytes().splitlines()))
    assert longest <= 998, "RFC 5322, 2.1.1"


def test_a_sendmail_that_fails_is_named_and_the_mail_is_kept(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"not sent through .*sendmail.*status 75: no queue"):
        mail.send(message(), sendmail(tmp_path, status=75), tmp_path / "mail.eml")
    check_content(read((tmp_path / "mail.eml").read_bytes()))


@dataclass
class Received:
    """What an SMTP server got; ``refuse`` is a recipient that it does not take."""

    refuse: str = ""
    envelope: list[str] = field(default_factory=list)
    data: bytes = b""


class Handler(socketserver.StreamRequestHandler):
    """RFC 5321, as much as a client with one mail needs."""

    def handle(self) -> None:
        received: Received = self.server.received  # type: ignore[attr-defined]
        self.say("220 test")
        while line := self.rfile.readline():
            words = line.decode("ascii").strip()
            match words.partition(" ")[0].upper():
                case "EHLO":
                    self.say("250 test")
                case "MAIL" | "RCPT":
                    received.envelope.append(words)
                    refused = received.refuse and received.refuse in words
                    self.say("550 nobody" if refused else "250 ok")
                case "DATA":
                    self.say("354 go")
                    lines = iter(self.rfile.readline, b".\r\n")
                    received.data = b"".join(x[1:] if x.startswith(b".") else x for x in lines)
                    self.say("250 queued")
                case "QUIT":
                    self.say("221 bye")
                    return
                case _:
                    self.say("250 ok")

    def say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")


@pytest.fixture
def server() -> Iterator[tuple[Server, Received]]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        received = Received()
        listening.received = received  # type: ignore[attr-defined]
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield Server("127.0.0.1", listening.server_address[1]), received
        listening.shutdown()
        thread.join()


TO = ("a@example.org", "b@example.org")


def test_a_server_gets_the_envelope_and_the_whole_mail(
    server: tuple[Server, Received], tmp_path: Path
) -> None:
    address, received = server
    mail.send(message(), Mailing(TO, "me@example.org", address), tmp_path / "mail.eml")
    assert [line.partition(">")[0] for line in received.envelope] == [
        "mail FROM:<me@example.org",
        "rcpt TO:<a@example.org",
        "rcpt TO:<b@example.org",
    ]
    check_content(read(received.data))


def test_one_recipient_that_is_refused_is_an_error(
    server: tuple[Server, Received], tmp_path: Path
) -> None:
    address, received = server
    received.refuse = "b@example.org"
    with pytest.raises(HostError, match=r"not sent through 127\.0\.0\.1:[0-9]+ .*b@example\.org"):
        mail.send(message(), Mailing(TO, "me@example.org", address), tmp_path / "mail.eml")


def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    nobody = Mailing(TO, "me@example.org", Server("127.0.0.1", 1))
    with pytest.raises(HostError, match="Connection refused"):
        mail.send(message(), nobody, tmp_path / "mail.eml")


def test_without_mail_nobody_is_asked_for_a_server() -> None:
    assert mail.mailing([], None, None) is None


def test_the_words_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL", "env@example.org")
    found = mail.mailing(["a@example.org, b", "c@example.org"], None, "mx.example.org:587")
    to = ("a@example.org", "b", "c@example.org")
    assert found == Mailing(to, "env@example.org", Server("mx.example.org", 587))
    found = mail.mailing(["a"], "me@example.org", "[::1]")
    assert found == Mailing(("a",), "me@example.org", Server("::1", 25))


@pytest.mark.parametrize(
    ("to", "sender", "smtp", "said"),
    [
        ("-oQ/etc", "me", "h", "--mail '-oQ/etc': give an address"),
        ("a@b\nBcc: c@d", "me", "h", "--mail "),
        ("", "me", "h", "--mail ''"),
        ("a", "a b", "h", "--mail-from 'a b'"),
        ("a", "me", "h:0", "--smtp 'h:0': give HOST or HOST:PORT"),
        ("a", "me", "h:70000", "--smtp"),
        ("a", "me", "h i", "--smtp"),
    ],
)
def test_what_is_no_address_or_server_is_refused(
    to: str, sender: str, smtp: str, said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        mail.mailing([to], sender, smtp)
    assert str(refused.value).startswith(said)


def test_without_sendmail_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.host.tools.find", lambda _: None)
    with pytest.raises(UsageError, match=r"no sendmail; install one, .* or name a server with"):
        mail.mailing(["a@example.org"], "me@example.org", None)
