"""The section ``notify`` of the table of settings (vmguard/config/settings.py), and the keys of its targets.

A target is an entry of ``notify.targets``: its name, and keys of the table below. What a key may be depends on the
target's ``type``; ``target_problems`` says what does not fit.
"""

# ruff: noqa: RUF009 - setting() is dataclasses.field() with that table's metadata

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from vmguard.config.problems import quoted
from vmguard.config.row import setting
from vmguard.config.values import AbsolutePath, Choice, Duration, Kind, Line, Name
from vmguard.core.watchdog.events import Level

_LEVELS = Choice(Level.ERROR, Level.WARNING, Level.INFO)


@dataclass(frozen=True)
class Notify:
    """Who is told what happens."""

    command: str = setting(
        Line("a shell command"),
        "",
        "Run by /bin/sh for each event, with VMGUARD_EVENT, VMGUARD_LEVEL, VMGUARD_TEXT, VMGUARD_HOST, VMGUARD_VM, "
        'VMGUARD_MOUNT, VMGUARD_DISK and others in its environment, one printable line each. "" means none.',
    )
    timeout: float = setting(Duration(1, 600), 10.0, "After this time it is killed. Nothing ever waits for it.")
    level: Level = setting(
        _LEVELS,
        Level.WARNING,
        "Events of this level and above: error, a human must look; warning, may lead to that; info, all.",
    )
    queue_dir: str = setting(
        AbsolutePath(),
        "/var/lib/vmguard/notify",
        "Where messages for the targets wait until they are delivered. On this host's own disk: never on a share.",
    )


class TargetType(StrEnum):
    """How a target is reached."""

    MAIL = "mail"
    SENDMAIL = "sendmail"
    WEBHOOK = "webhook"
    APPRISE = "apprise"
    PROXMOX = "proxmox"


class Tls(StrEnum):
    """How the connection to a mail server is encrypted."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


class Secret(Kind[str]):
    """Where a secret is: a file, or a credential that systemd passes to vmguard.service. Never the secret itself."""

    _CREDENTIAL = re.compile(r"credential:[A-Za-z0-9._-]{1,200}")
    _path = AbsolutePath()

    def parse(self, text: str) -> str:
        if text == "" or self._CREDENTIAL.fullmatch(text):
            return text
        if not text.startswith("/"):  # whatever it is, it may be the secret: it is not repeated
            raise ValueError(f"is not {self.describe()}: a secret does not belong into this file")
        return self._path.parse(text)

    def describe(self) -> str:
        return 'the path of a file with mode 0600, credential:NAME, or ""'


class Url(Line):
    """An http or https URL without user, password and query: those are secrets as a rule."""

    _URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?", re.I)

    def __init__(self) -> None:
        super().__init__("a URL of http or https")

    def parse(self, text: str) -> str:
        if text and not self._URL.fullmatch(text):
            raise ValueError(
                "is not a URL of http or https without user, password and query; keep one that has them in a file, "
                "and name that by url_file"
            )
        return super().parse(text)


class Header(Line):
    """One line of an HTTP header."""

    _HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+: ?[\x20-\x7e]+")

    def __init__(self) -> None:
        super().__init__("a header such as 'X-Site: north'", 1000)

    def parse(self, text: str) -> str:
        if text and not self._HEADER.fullmatch(text):
            raise ValueError(f"{quoted(text)} is not {self.describe()}")
        return super().parse(text)


class Addresses(Kind[tuple[str, ...]]):
    """Mail addresses, separated by commas."""

    _ADDRESS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}(@[A-Za-z0-9.-]{1,253})?")

    def parse(self, text: str) -> tuple[str, ...]:
        found = tuple(part.strip() for part in text.split(",")) if text else ()
        for address in found:
            if not self._ADDRESS.fullmatch(address) or address.startswith("-"):
                raise ValueError(f"{quoted(address)} is not a mail address")
        return found

    def show(self, value: tuple[str, ...]) -> str:
        return f'"{", ".join(value)}"'

    def describe(self) -> str:
        return 'mail addresses with commas between them, or ""'


class Events(Kind[tuple[str, ...]]):
    """Codes of events, or patterns of them, separated by commas."""

    _PATTERN = re.compile(r"[a-z*?][a-z0-9.*?-]{0,60}")

    def parse(self, text: str) -> tuple[str, ...]:
        found = tuple(part.strip() for part in text.split(","))
        for pattern in found:
            if not self._PATTERN.fullmatch(pattern):
                raise ValueError(f"{quoted(pattern)} is not the code of an event, such as vm.freeze or vm.*")
        return found

    def show(self, value: tuple[str, ...]) -> str:
        return f'"{", ".join(value)}"'

    def describe(self) -> str:
        return "codes of events, such as vm.freeze, or patterns, such as vm.*, with commas between them"


@dataclass(frozen=True)
class Target:
    """One entry of ``notify.targets``."""

    type: TargetType = setting(
        Choice(*TargetType),
        TargetType.MAIL,
        "mail: by SMTP. sendmail: the system's own /usr/sbin/sendmail. webhook: an HTTP POST of JSON. apprise: ntfy, "
        "Gotify, Matrix and a hundred others, by the Python package apprise. proxmox: Proxmox VE's own notification "
        "system.",
    )
    level: Level = setting(
        _LEVELS, Level.WARNING, "Events of this level and above, and whatever ends what was told: error, warning, info."
    )
    events: tuple[str, ...] = setting(Events(), ("*",), "Only these events.")
    timeout: float = setting(Duration(1, 300), 15.0, "After this time an attempt is ended, and made again later.")
    to: tuple[str, ...] = setting(Addresses(), (), "mail, sendmail: who gets it.")
    sender: tuple[str, ...] = setting(Addresses(), (), 'mail, sendmail: whom it is from. "": root@HOST.')
    server: str = setting(
        Name("a host, or HOST:PORT", r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?", True),
        "",
        "mail: the mail server. Its port is 587, with tls: tls 465, with tls: none 25, unless it is given.",
    )
    tls: Tls = setting(
        Choice(*Tls), Tls.STARTTLS, "mail: how the connection is encrypted. The server's certificate is verified."
    )
    ca: str = setting(
        Line("the path of a file"), "", 'mail, webhook: certificates to trust. "": those that the system trusts.'
    )
    user: str = setting(Line("a name", 250), "", 'mail: the name to log in with. "": without.')
    password_file: str = setting(Secret(), "", "mail: where the password is.")
    url: str = setting(Url(), "", "webhook: where to.")
    url_file: str = setting(Secret(), "", "webhook, apprise: where the URL is. apprise: a URL a line.")
    token_file: str = setting(Secret(), "", "webhook: where the token is that is sent as Authorization: Bearer.")
    sign_file: str = setting(
        Secret(), "", "webhook: where the key is by which the body is signed, HMAC-SHA256, in X-Vmguard-Signature."
    )
    header: str = setting(Header(), "", "webhook: one more header. No secret: this file can be read by everybody.")

    def as_json(self) -> dict[str, Any]:
        """Return it for the process that sends (vmguard/adapters/messages/sending.py)."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            key: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, StrEnum) else value
            for key, value in values.items()
        }


@dataclass(frozen=True)
class TargetKey:
    """One key of a target: its name, the kind of its values, its default, and what it is for."""

    key: str
    kind: Kind[Any]
    default: Any
    help: str

    @property
    def name(self) -> str:
        return f"notify.targets.NAME.{self.key}"


#: the name of a target: it becomes the name of a folder and a label of metrics
TARGET_NAME = Name("the name of a target: letters, digits, - and _", r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
MAX_TARGETS = 16
SECRET_KEYS = ("password_file", "url_file", "token_file", "sign_file")
_NEEDED = {
    TargetType.MAIL: ("to", "server"),
    TargetType.SENDMAIL: ("to",),
    TargetType.WEBHOOK: (),
    TargetType.APPRISE: ("url_file",),
    TargetType.PROXMOX: (),
}
_OWN = {
    TargetType.MAIL: {"to", "sender", "server", "tls", "ca", "user", "password_file"},
    TargetType.SENDMAIL: {"to", "sender"},
    TargetType.WEBHOOK: {"url", "url_file", "token_file", "sign_file", "header", "ca"},
    TargetType.APPRISE: {"url_file"},
    TargetType.PROXMOX: set[str](),
}
_COMMON = {"type", "level", "events", "timeout"}


def target_keys() -> dict[str, TargetKey]:
    """Return the keys that a target may have, in the order of the manual."""
    return {
        item.name: TargetKey(item.name, item.metadata["kind"], item.default, item.metadata["help"])
        for item in fields(Target)
    }


def target_problems(entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with an entry as a whole: the key, and the words; "" for the entry itself."""
    if "type" not in entry:
        yield "", "needs a type: " + ", ".join(TargetType)
        return
    kind: TargetType = entry["type"]
    for key in entry:
        if key not in _OWN[kind] | _COMMON:
            yield key, f"is not for a target of type {kind}"
    for key in _NEEDED[kind]:
        if not entry.get(key):
            yield "", f"of type {kind} needs {key}"
    if kind is TargetType.WEBHOOK and bool(entry.get("url")) == bool(entry.get("url_file")):
        yield "", "of type webhook needs either url or url_file"
    if bool(entry.get("user")) != bool(entry.get("password_file")):
        yield "", "needs both user and password_file, or neither"
    if entry.get("password_file") and entry.get("tls") is Tls.NONE:
        yield "tls", "none would show the password to everybody on the way"
