"""One message by one target, and what came of it in words. Whatever goes wrong is an error of ours, without secrets."""

from __future__ import annotations

import http.client
import smtplib
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from vmguard.adapters.linux.libc import libc
from vmguard.adapters.messages import secret, services, smtp, webhook
from vmguard.adapters.messages.queue import MAX_ANSWER
from vmguard.core.notices.message import Message
from vmguard.core.words import printable
from vmguard.errors import VmguardError

_PR_SET_NO_NEW_PRIVS = 38
SECRETS = ("password_file", "url_file", "token_file", "sign_file")


def confine() -> None:
    """Gain no rights by a program, as within vmguard.service (NoNewPrivileges=): setuid and setgid bits do not count.

    So a test from a terminal shows what happens when the daemon's child sends.
    """
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def send(message: Message, wanted: Mapping[str, Any], credentials: str = secret.CREDENTIALS) -> str:
    """Send a message; return what the other side answered, one printable line.

    ``wanted``: a target's settings, as in vmguard/config/notify.py. Raises VmguardError; its text has no secret.
    """
    secrets = {key: secret.read(wanted[key], credentials) for key in SECRETS if wanted.get(key)}
    try:
        answer = _send(message, wanted, secrets)
    except VmguardError as problem:
        raise VmguardError(_shown(problem.message, secrets), problem.hint) from None
    except ssl.SSLCertVerificationError as problem:
        text = f"the certificate is not trusted: {problem.verify_message}"
        raise VmguardError(_shown(text, secrets), "name the CA's file by ca, or have the system trust it") from None
    except socket.gaierror as problem:
        raise VmguardError(_shown(f"its name cannot be resolved: {problem.strerror}", secrets)) from None
    except TimeoutError:
        raise VmguardError(f"it did not answer within {wanted['timeout']:g} s") from None
    except smtplib.SMTPResponseException as problem:
        said = problem.smtp_error
        words = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        raise VmguardError(_shown(f"the server answered {problem.smtp_code} {words}", secrets)) from None
    except smtplib.SMTPRecipientsRefused as problem:
        words = "; ".join(
            f"{to}: {code} {said.decode(errors='replace')}" for to, (code, said) in problem.recipients.items()
        )
        raise VmguardError(_shown(f"every recipient was refused: {words}", secrets)) from None
    except smtplib.SMTPServerDisconnected as problem:
        if isinstance(problem.__context__, TimeoutError):
            raise VmguardError(f"it did not answer within {wanted['timeout']:g} s") from None
        raise VmguardError(_shown(f"it closed the connection: {problem}", secrets)) from None
    except (OSError, smtplib.SMTPException, http.client.HTTPException, ValueError) as problem:
        words = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        raise VmguardError(_shown(str(words), secrets)) from None
    return _shown(answer, secrets)


def _send(message: Message, wanted: Mapping[str, Any], secrets: Mapping[str, str]) -> str:
    way = _WAYS.get(wanted["type"])
    if way is None:
        raise VmguardError(f"there is no way to send by {wanted['type']}")
    return way(message, wanted, secrets, float(wanted["timeout"]))


_Way = Callable[[Message, Mapping[str, Any], Mapping[str, str], float], str]
_WAYS: dict[str, _Way] = {
    "mail": lambda message, wanted, secrets, seconds: smtp.by_smtp(
        message, wanted, secrets.get("password_file", ""), seconds
    ),
    "sendmail": lambda message, wanted, secrets, seconds: smtp.by_sendmail(message, wanted, seconds),
    "webhook": webhook.post,
    "apprise": lambda message, wanted, secrets, seconds: services.by_apprise(message, secrets["url_file"]),
    "proxmox": lambda message, wanted, secrets, seconds: services.by_proxmox(message, seconds),
}


def _shown(text: str, secrets: Mapping[str, str]) -> str:
    return printable(secret.without(" ".join(text.split()), list(secrets.values()))[:MAX_ANSWER])
