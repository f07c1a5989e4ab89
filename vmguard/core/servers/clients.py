"""The server's lists of its clients and of their states: /proc/fs/nfsd/clients/N/info and states. Pure.

Both are almost YAML (client_info_show, states_show in fs/nfsd/nfs4state.c), but names of files stand in them as they
are, and whoever may create a file chooses them. So each line is read from its left, where the kernel writes numbers
first, and what does not fit is passed over. A name with a line feed in it can still make up a line of its own: one more
reason why none of this is a verdict.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vmguard.core.servers.document import Document
from vmguard.core.servers.facts import Client, Lock

#: ``- 0x01...: { type: lock, superblock: "fe:00:131", filename: "vm/web.raw", owner: ...`` (nfs4_show_lock)
_STATE = re.compile(r"- 0x[0-9a-f]{8,40}: \{ type: (open|lock|deleg|layout),(.*)")
_FILE = re.compile(r' superblock: "([0-9a-f]{1,8}:[0-9a-f]{1,8}):(\d{1,20})", filename: "(.*)')
_ACCESS = re.compile(r" access: ([-rw]{1,2}),")
_INFO = re.compile(r"^([a-z0-9 -]{1,40}): (.*)$", re.MULTILINE)


def client(found: Document) -> Client:
    """Read a client's ``info``. A later line of one name does not count: only the first is the kernel's for sure."""
    info: dict[str, str] = {}
    for key, value in _INFO.findall(found.text("info")):
        info.setdefault(key, value)
    return Client(
        number=found.text("number"),
        clientid=info.get("clientid", ""),
        name=_unescaped(info.get("name", "")),
        address=info.get("address", "").strip('"'),
        state=info.get("status", ""),
        minor=_whole(info.get("minor version", "")),
        idle=_whole(info.get("seconds from last renew", "")),
        complete=not found.flag("cut"),
    )


def locks(owner: Client, states: str) -> Iterator[Lock]:
    """Yield what a client's ``states`` list."""
    for line in states.split("\n"):
        state = _STATE.fullmatch(line)
        if state is None:
            continue
        file = _FILE.search(state[2])
        if file is None or len(file[2]) > 19:
            continue
        name = file[3].partition('", owner: ')[0].removesuffix('" }').rstrip('"')
        access = _ACCESS.search(state[2][: file.start() + 1])
        yield Lock(owner, state[1], file[1], int(file[2]), name, access[1] if access else "")


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _unescaped(text: str) -> str:
    """Return a name as the kernel quotes it (seq_quote_mem): ``"Linux\\x20NFSv4.2"``; what it cannot print is hex."""
    inner = text[1:-1] if len(text) >= 2 and text[0] == text[-1] == '"' else text
    data = re.sub(
        rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), inner.encode(errors="surrogateescape")
    )
    return data.replace(b'\\"', b'"').replace(b"\\\\", b"\\").decode(errors="surrogateescape").rstrip("\0")
