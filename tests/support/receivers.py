"""Receivers of messages on this machine: a web server and a mail server, with TLS, that work, refuse, or hang.

::

    with WebReceiver() as web:
        web.url                     # http://127.0.0.1:PORT/hook
        web.bodies                  # what was posted, as JSON
        web.status = 503            # from now on it refuses
        web.hang = True             # ... or answers nothing
    with MailReceiver(certificate, user="me", password="word") as mail: ...
"""

from __future__ import annotations

import email
import email.policy
import json
import socket
import ssl
import subprocess
import threading
from dataclasses import dataclass
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword


class WebReceiver:
    """A web server that keeps what is posted to it. A context manager; it has its port from its construction on."""

    def __init__(self) -> None:
        self.status = 200
        self.reason = "taken"
        self.hang = False
        #: path, headers, body of each request, also of those that were refused
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self._port = free_port()
        self._go_on = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/hook"

    @property
    def port(self) -> int:
        return self._port

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body in self.requests]

    @property
    def codes(self) -> list[str]:
        """The codes of all events that were posted, in their order."""
        return [event["code"] for body in self.bodies for event in body["events"]]

    def take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str]:
        self.requests.append((path, headers, body))
        if self.hang:
            self._go_on.wait(60)
        return self.status, self.reason

    def __enter__(self) -> Self:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                status, reason = receiver.take(self.path, dict(self.headers), self.rfile.read(length))
                try:
                    self.send_response(status)
                    self.end_headers()
                    self.wfile.write(reason.encode())
                except OSError:
                    pass  # the sender has given up

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@dataclass(frozen=True)
class Certificate:
    """A certificate for ``localhost`` that signs itself."""

    path: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> Certificate:
        made = cls(folder / "cert.pem", folder / "key.pem")
        words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        words += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        words += ["-out", str(made.path), "-keyout", str(made.key)]
        subprocess.run(words, check=True, capture_output=True)
        return made

    @property
    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path, self.key)
        return context


class MailReceiver:
    """A mail server (aiosmtpd) that keeps what it gets: with STARTTLS, or encrypted from the first byte."""

    def __init__(self, certificate: Certificate, user: str = "", password: str = "", implicit: bool = False) -> None:
        self.port = free_port()
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.logins: list[str] = []
        #: the answer to a message
        self.answer = "250 2.0.0 Ok: queued as 4711"
        tls: dict[str, Any] = {"ssl_context": certificate.context} if implicit else {"tls_context": certificate.context}
        if not implicit:
            tls["require_starttls"] = True
        if user:
            tls |= {"authenticator": self._authenticator(user, password), "auth_required": True}
            tls |= {"auth_require_tls": not implicit}  # aiosmtpd knows of STARTTLS only
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port, **tls)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        made = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.mails.append(made)
        self.recipients.append(list(envelope.rcpt_tos))
        return self.answer

    def _authenticator(self, user: str, password: str) -> Any:
        def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
            assert isinstance(data, LoginPassword)
            self.logins.append(data.login.decode())
            right = (data.login, data.password) == (user.encode(), password.encode())
            return AuthResult(success=right, handled=False)  # aiosmtpd then says so itself

        return check

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._controller.stop()


class Silent:
    """A server that takes connections, or packets, and says nothing."""

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0), kind: int = socket.SOCK_STREAM) -> None:
        self._socket = socket.socket(socket.AF_INET, kind)
        self._socket.bind(address)
        if kind == socket.SOCK_STREAM:
            self._socket.listen(50)

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def secret_file(path: Path, text: str, mode: int = 0o600) -> Path:
    """Write a secret as an admin would."""
    path.write_text(f"{text}\n")
    path.chmod(mode)
    return path
