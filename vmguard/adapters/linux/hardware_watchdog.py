"""The last resort: the host's hardware watchdog, opened only in order to fire.

An open watchdog that nobody feeds resets the host. vmguard never keeps one open: a crash of the daemon must not cost
the host. On Proxmox VE watchdog-mux holds /dev/watchdog for its whole life; there a client that connects and leaves
without the byte V resets the node within ten seconds.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import stat

#: _IOWR('W', 6, int), linux/watchdog.h
_WDIOC_SETTIMEOUT = 0xC0045706
#: the magic close (Documentation/watchdog/watchdog-api.rst)
_DISARM = b"V"
#: from the last sign of life to the reset
_TIMEOUT_S = 5


class HardwareWatchdog:
    """The reset of the host: ``fire`` begins it, ``cancel`` takes it back where the driver allows that."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._mux: socket.socket | None = None

    @property
    def fired(self) -> bool:
        return self._fd >= 0 or self._mux is not None

    def missing(self) -> str:
        """Return why it could not fire, as far as that shows without firing; empty if it could."""
        try:
            kind = os.stat(self._path).st_mode
        except OSError as problem:
            return f"{self._path}: {problem.strerror}"
        if not (stat.S_ISCHR(kind) or stat.S_ISSOCK(kind) or stat.S_ISFIFO(kind)):
            return f"{self._path} is neither a watchdog device nor the socket of watchdog-mux"
        return ""

    def fire(self) -> None:
        """Reset the host within seconds. Raises OSError if that is not possible."""
        if self.fired:
            return
        if stat.S_ISSOCK(os.stat(self._path).st_mode):
            mux = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            mux.settimeout(1.0)
            mux.connect(self._path)
            mux.shutdown(socket.SHUT_RDWR)  # gone without V: that is how a client of watchdog-mux dies
            self._mux = mux
            return
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.ioctl(self._fd, _WDIOC_SETTIMEOUT, array.array("i", [_TIMEOUT_S]))
        except OSError:
            pass  # the driver has one timeout: then it is that one

    def cancel(self) -> bool:
        """Take it back; return False if it is too late, or the driver has no way back (nowayout)."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return False
        try:
            os.write(fd, _DISARM)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True
