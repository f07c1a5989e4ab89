"""Write log lines without ever waiting: to journald in its own protocol, with fields, else to stderr.

Under systemd stderr leads to the journal (JOURNAL_STREAM); then a line goes there as a datagram with its fields
(systemd.journal-fields(7), "Native Journal Protocol"), and to stderr only when the journal does not take it. A reader
that hangs must not stop the watchdog: nothing is written that could wait, the line is dropped and counted instead.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import sys

from vmguard.core.words import printable, printable_lines

_ADDRESS = "/run/systemd/journal/socket"
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
#: of one line on stderr; a pipe that is writable takes that much without waiting (PIPE_BUF)
_MAX_LINE_BYTES = 4096
#: the attribute of a log record that holds its fields
FIELDS = "vmguard"


class _OneLine(logging.Formatter):
    """Makes a line of a message, whatever names it holds; only the traceback of an exception has lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        text = printable(record.getMessage())
        return f"{text}\n{printable_lines(self.formatException(record.exc_info))}" if record.exc_info else text


class JournalHandler(logging.Handler):
    """A handler that never waits and never raises."""

    def __init__(self, address: str = _ADDRESS, stderr: int = 2, native: bool | None = None) -> None:
        super().__init__()
        self.setFormatter(_OneLine())
        self._address = address
        self._stderr = stderr
        self._native = _leads_to_journal(stderr) if native is None else native
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            if not (self._native and self._send(record, text)):
                self._write(f"{record.levelname} {text}")
        except Exception:
            self.dropped += 1  # a line that cannot be written must not become a fault of the guard

    def _send(self, record: logging.LogRecord, text: str) -> bool:
        fields = {
            "MESSAGE": text,
            "PRIORITY": str(_PRIORITIES.get(record.levelno, 6)),
            "SYSLOG_IDENTIFIER": "vmguard",
            **{f"VMGUARD_{name.upper()}": value for name, value in getattr(record, FIELDS, {}).items()},
        }
        try:
            self._socket.sendto(b"".join(_field(name, value) for name, value in fields.items()), self._address)
        except OSError:
            return False
        return True

    def _write(self, line: str) -> None:
        if self.dropped and self._put(f"WARNING {self.dropped} lines were dropped: nobody read them"):
            self.dropped = 0
        if not self._put(line):
            self.dropped += 1

    def _put(self, line: str) -> bool:
        data = line.encode()[: _MAX_LINE_BYTES - 1].decode(errors="ignore").encode() + b"\n"
        poll = select.poll()
        poll.register(self._stderr, select.POLLOUT)
        # A regular file or a terminal is always writable; a full pipe or a hung journal's stream is not.
        if not any(events & select.POLLOUT for _, events in poll.poll(0)):
            return False
        os.write(self._stderr, data)
        return True


def _field(name: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def _leads_to_journal(fd: int) -> bool:
    """Return whether a descriptor is the stream that systemd connected to the journal (sd_journal_print(3))."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return device == str(status.st_dev) and inode == str(status.st_ino)


def setup() -> None:
    """Send all log lines of this process that way."""
    logging.raiseExceptions = False
    logging.basicConfig(handlers=[JournalHandler(stderr=sys.stderr.fileno())], level=logging.INFO)
