"""Mail by SMTP (RFC 5321, STARTTLS: RFC 3207, AUTH: RFC 4954), or by the system's own sendmail.

A message is made by ``email.message``: a header that a name would break is refused there, and encoded where it must be.
"""

from __future__ import annotations

import email.policy
import email.utils
import smtplib
import ssl
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from typing import Any

from vmguard.adapters.linux import programs
from vmguard.core.notices.message import Message
from vmguard.core.watchdog.events import Level
from vmguard.errors import VmguardError

_PORTS = {"starttls": 587, "tls": 465, "none": 25}
_SENDMAIL = "/usr/sbin/sendmail"
_PRIORITY = {Level.ERROR: "1", Level.WARNING: "3", Level.INFO: "5"}


def mail(message: Message, recipients: Sequence[str], sender: str) -> EmailMessage:
    """Return a message as mail. Its Message-ID is the same at each attempt: two that arrive are one."""
    # A subject of ASCII stays on one line: folded behind its name it would begin with a blank for some readers.
    longest = 998 if message.subject.isascii() else 78
    made = EmailMessage(policy=email.policy.SMTP.clone(max_line_length=longest))
    made["From"] = email.utils.formataddr(("vmguard", sender))
    made["To"] = ", ".join(recipients)
    made["Subject"] = message.subject
    made["Date"] = email.utils.localtime()
    made["Message-ID"] = f"<{message.id}@vmguard.{_domain(message.host)}>"
    made["Auto-Submitted"] = "auto-generated"
    made["X-Priority"] = _PRIORITY[message.level]
    made["X-Vmguard-State"] = message.state
    made["X-Vmguard-Level"] = str(message.level)
    made.set_content(message.text)
    return made


def by_smtp(message: Message, wanted: Mapping[str, Any], password: str, seconds: float) -> str:
    """Send by SMTP; return what the server said. Raises OSError, smtplib.SMTPException, VmguardError."""
    recipients, sender = list(wanted["to"]), _sender(message, wanted)
    host, port = _address(wanted["server"], wanted["tls"])
    context = ssl.create_default_context(cafile=wanted["ca"] or None)
    client = _Kept(host, port, wanted["tls"] == "tls", context, seconds)
    with client:
        if wanted["tls"] == "starttls":
            client.starttls(context=context)
        if wanted["user"]:
            client.login(wanted["user"], password)
        refused = client.send_message(mail(message, recipients, sender), sender, recipients)
    answer = client.answer
    if refused:
        words = "; ".join(f"{address}: {code} {_text(said)}" for address, (code, said) in refused.items())
        return f"{answer}, but not for {words}"
    return answer


class _Kept(smtplib.SMTP):
    """A connection that keeps the answer to its last message. With ``implicit`` it is encrypted from its first byte."""

    def __init__(self, host: str, port: int, implicit: bool, context: ssl.SSLContext, seconds: float) -> None:
        self._implicit, self._context = implicit, context
        self._host_name = host
        self.answer = ""
        super().__init__(host, port, timeout=seconds)

    def _get_socket(self, host: str, port: int, timeout: float) -> Any:
        plain = super()._get_socket(host, port, timeout)  # type: ignore[misc]
        return self._context.wrap_socket(plain, server_hostname=host) if self._implicit else plain

    def data(self, msg: Any) -> tuple[int, bytes]:
        code, said = super().data(msg)
        self.answer = f"{code} {_text(said)}"
        return code, said


def by_sendmail(message: Message, wanted: Mapping[str, Any], seconds: float, program: str = _SENDMAIL) -> str:
    """Hand a message to the system's sendmail; return what became of it. Raises OSError, VmguardError."""
    made = mail(message, list(wanted["to"]), _sender(message, wanted))
    # -i: a line with a single dot does not end it. Addresses begin with no hyphen (vmguard/config/notify.py).
    words = [program, "-i", "-f", _sender(message, wanted), "--", *wanted["to"]]
    data = made.as_bytes(policy=made.policy.clone(linesep="\n"))
    try:
        done = programs.run(words, seconds, data, mixed=True)
    except FileNotFoundError:
        raise VmguardError(f"this host has no {program}", "install a mail server, or use type: mail") from None
    if done.status:
        raise VmguardError(f"{program} ended with status {done.status}: {done.text.strip()[-200:]}")
    return f"{program} has taken it"


def _sender(message: Message, wanted: Mapping[str, Any]) -> str:
    return str(wanted["sender"][0]) if wanted["sender"] else f"root@{_domain(message.host)}"


def _domain(host: str) -> str:
    kept = "".join(char for char in host if char.isascii() and (char.isalnum() or char in ".-")).strip(".-")
    return kept[:200] or "localhost"


def _address(server: str, tls: str) -> tuple[str, int]:
    host, colon, port = server.rpartition(":")
    if not colon or not port.isdecimal():
        return server.strip("[]"), _PORTS[tls]
    return host.strip("[]"), int(port)


def _text(said: bytes) -> str:
    return said.decode(errors="replace")
