"""Gets the probe to a storage server and its answer back: in a child with a deadline, its output bounded.

The system's own ssh: known_hosts, ~/.ssh/config and jump hosts are the admin's business already, and a password is
never asked for (BatchMode, ssh_config(5)). One connection serves several questions for a minute (ControlPersist).
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import BinaryIO

from vmguard.adapters.linux import spawn
from vmguard.adapters.servers import probe
from vmguard.core.servers.document import MAX_BYTES
from vmguard.core.words import printable, shell_word
from vmguard.errors import ServerError

SSH, LOCAL, COMMAND = "ssh", "local", "command"
#: what the remote side starts: isolated, the program comes on standard input
_REMOTE = ("python3", "-I", "-")
_PERSIST_S = 60
#: of what the program says on standard error
_MAX_ERROR = 300


class Way:
    """How one server is reached: the words of the program that is started here."""

    __slots__ = ("_sends", "name", "words")

    def __init__(self, name: str, words: Sequence[str], sends: bool = True) -> None:
        """``name``: the server, for people. ``sends``: the program is sent on standard input."""
        self.name = name
        self.words = list(words)
        self._sends = sends

    def ask(self, order: Sequence[str], seconds: float) -> bytes:
        """Have the probe carry out an order; return what it printed.

        ``order``: words of letters and digits alone. Raises ServerError when there is no answer in time.
        """
        if not all(word and all(char.isalnum() or char in ".:x" for char in word) for word in order):
            raise ServerError(f"{printable(self.name)}: an order that is none: {printable(' '.join(order))}")
        return _run([*self.words, *order], _program() if self._sends else b"", seconds, self.name)


def way(name: str, transport: str, destination: str, command: Sequence[str], control_folder: str) -> Way:
    """Return the way to a server. ``control_folder``: where ssh may leave the socket of its connection."""
    if transport == LOCAL:
        return Way(name, ["/usr/bin/python3", "-I", "-"])
    if transport == COMMAND:
        return Way(name, command)
    return Way(name, ssh(destination or name, control_folder))


def ssh(destination: str, control_folder: str, timeout: int = 3) -> list[str]:
    """Return the words that start the probe through ssh."""
    options = ["BatchMode=yes", f"ConnectTimeout={timeout}", "StrictHostKeyChecking=yes", "ClearAllForwardings=yes"]
    if control_folder and os.path.isdir(control_folder):
        path = os.path.join(control_folder, "ssh-%C")
        options += ["ControlMaster=auto", f"ControlPath={path}", f"ControlPersist={_PERSIST_S}"]
    return ["ssh", "-T", *(word for option in options for word in ("-o", option)), "--", destination, *_REMOTE]


def _program() -> bytes:
    with open(probe.__file__, "rb") as stream:
        return stream.read()


def program_text() -> str:
    """Return the probe, for an admin who installs it on the server."""
    return _program().decode()


def _run(words: Sequence[str], stdin: bytes, seconds: float, name: str) -> bytes:
    deadline = time.monotonic() + seconds
    with _in_memory() as said, _in_memory() as given:
        given.write(stdin)
        given.seek(0)
        try:
            process = subprocess.Popen(
                list(words),
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=said,
                cwd="/",
                env=spawn.environment(),
                start_new_session=True,
            )
        except OSError as problem:
            raise ServerError(f"{printable(name)} cannot be asked: {words[0]}: {problem.strerror}") from None
        assert process.stdout is not None
        try:
            data = _read(process.stdout.fileno(), deadline)
            if data is None:
                _end(process)
                raise ServerError(f"{printable(name)} answered more than {MAX_BYTES >> 20} MiB")
            status = process.wait(max(0.1, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired):
            _end(process)
            raise ServerError(
                f"{printable(name)} gave no answer about itself within {seconds:g} s", f"try: {_try(words)}"
            ) from None
        finally:
            process.stdout.close()
        if status:
            said.seek(0)
            error = " ".join(said.read(_MAX_ERROR).decode(errors="replace").split())
            text = f"{printable(name)} cannot be asked: {printable(words[0])} ended with {status}"
            raise ServerError(f"{text}{': ' if error else ''}{printable(error)}", f"try: {_try(words)}")
        return data


def _in_memory() -> BinaryIO:
    return os.fdopen(os.memfd_create("vmguard-ask", os.MFD_CLOEXEC), "w+b")


def _try(words: Sequence[str]) -> str:
    return " ".join(map(shell_word, words)) + " < /dev/null"


def _read(fd: int, deadline: float) -> bytes | None:
    """Read to the end; None when it is too long. Raises TimeoutError."""
    data = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while len(data) <= MAX_BYTES:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            piece = os.read(fd, 1 << 16)
            if not piece:
                return bytes(data)
            data += piece
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill it with all of its session. It is not waited for: it may hang beyond any signal."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.poll()
