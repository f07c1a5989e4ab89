"""A terminal of 80 columns and 24 lines, and what a program has printed on it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
import threading
from types import TracebackType
from typing import Self, TextIO

COLUMNS, LINES = 80, 24
_SEQUENCE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Terminal:
    """The terminal. ``stream`` is what the program prints to; ``lines`` are what stands there in the end."""

    def __init__(self, columns: int = COLUMNS, lines: int = LINES) -> None:
        self._end, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.stream: TextIO = os.fdopen(slave, "w", encoding="utf-8")
        self._seen = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._end, 65536)
            except OSError:  # EIO: nobody has the other end open any more
                return
            if not data:
                return
            self._seen += data

    @property
    def text(self) -> str:
        """Return what was printed, without colours."""
        return _SEQUENCE.sub("", self._seen.decode()).replace("\r\n", "\n")

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.close()
        self._reader.join(10)
        os.close(self._end)
