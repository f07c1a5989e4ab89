"""In a guest without systemd: what vmguard.service and vmguard.socket are to the daemon, in one small process.

    store.py COMMAND...       orders on its input: ``start [NAME=VALUE...]``, ``kill``, ``term``, ``stop``, ``names``

It owns the daemon's socket, keeps the descriptors that the daemon stores, and hands both to the next one, which it
starts whenever one ends. ``start`` ends the one that runs; its environment is for the next one only. ``stop`` is
SIGKILL, and nothing is kept then, and nobody listens, until the next ``start``. What it tells (a line each):
``started PID``, ``ready PID``, ``ended STATUS``, ``names NAME...``; the daemon's own standard error passes through.
tests/scenarios/test_systemd.py holds it and the real systemd to the same contract.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys

RUN = "/run/vmguard"
LISTEN = f"{RUN}/vmguard.sock"
NOTIFY = "/run/vmguard-store.notify"
MAXIMUM = 16384
CREDENTIALS = struct.Struct("3i")


def tell(*words: object) -> None:
    print(*words, flush=True)


def same(one: int, other: int) -> bool:
    """As systemd judges where the kernel has no kcmp(2): the same file, opened alike."""
    first, second = os.fstat(one), os.fstat(other)
    if (first.st_dev, first.st_ino) != (second.st_dev, second.st_ino):
        return False
    return fcntl.fcntl(one, fcntl.F_GETFL) == fcntl.fcntl(other, fcntl.F_GETFL)


def listen(path: str, kind: int) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(path)
    return sock


class Store:
    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._kept: list[tuple[str, int]] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._more: dict[str, str] = {}
        self._stopped = False
        os.makedirs(RUN, 0o700, exist_ok=True)
        self._listener = self._listen()
        self._notify = listen(NOTIFY, socket.SOCK_DGRAM)
        self._notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def _listen(self) -> socket.socket:
        listener = listen(LISTEN, socket.SOCK_SEQPACKET)
        listener.listen(128)
        return listener

    def serve(self) -> None:
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        selector = selectors.DefaultSelector()
        for source in (0, wake_read, self._notify.fileno()):
            selector.register(source, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if self._notify.fileno() in ready:  # before its death is seen: what a daemon said last still counts
                self._take()
            elif wake_read in ready:
                os.read(wake_read, 4096)
                self._reap()
            elif 0 in ready:
                line = sys.stdin.readline().split()
                if not line:
                    return
                self._obey(line[0], line[1:])

    def _obey(self, order: str, words: list[str]) -> None:
        if order == "start":
            self._more = dict(word.split("=", 1) for word in words)
            if self._stopped:
                self._stopped, self._listener = False, self._listen()
            if self._process is None:
                self._start()
            else:
                self._process.kill()
        elif order == "names":
            tell("names", *sorted(name for name, _ in self._kept))
        elif order == "stop" and self._process is not None:
            self._stopped = True
            self._process.kill()
        elif self._process is not None:
            self._process.send_signal(signal.SIGKILL if order == "kill" else signal.SIGTERM)

    def _start(self) -> None:
        more, self._more = self._more, {}
        passed = [("vmguard.socket", self._listener.fileno()), *self._kept]

        def arrange() -> None:
            copies = [os.dup2(fd, 1000 + number) for number, (_, fd) in enumerate(passed)]
            for number, copy in enumerate(copies):
                os.dup2(copy, 3 + number)
            os.closerange(3 + len(passed), 20000)
            os.environ.update(
                more,
                LISTEN_PID=str(os.getpid()),
                LISTEN_FDS=str(len(passed)),
                LISTEN_FDNAMES=":".join(name for name, _ in passed),
                NOTIFY_SOCKET=NOTIFY,
            )
            os.execvp(self._command[0], self._command)

        self._process = subprocess.Popen(self._command, preexec_fn=arrange, close_fds=False)
        tell("started", self._process.pid)

    def _take(self) -> None:
        size = socket.CMSG_SPACE(CREDENTIALS.size) + socket.CMSG_SPACE(4 * 256)
        data, ancillary, _, _ = self._notify.recvmsg(4096, size)
        fds = array.array("i")
        sender = 0
        for _, kind, payload in ancillary:
            if kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) // 4 * 4])
            elif kind == socket.SCM_CREDENTIALS:
                sender = CREDENTIALS.unpack(payload)[0]
        try:
            if self._process is not None and sender == self._process.pid:
                self._heed(dict(line.partition("=")[::2] for line in data.decode().splitlines()), list(fds))
        finally:
            for fd in fds:
                os.close(fd)

    def _heed(self, said: dict[str, str], fds: list[int]) -> None:
        name = said.get("FDNAME", "")
        if said.get("READY") == "1" and self._process is not None:
            tell("ready", self._process.pid)
        if said.get("FDSTOREREMOVE") == "1" and name:
            gone = [kept for kept in self._kept if kept[0] == name]
            self._kept = [kept for kept in self._kept if kept[0] != name]
            for _, fd in gone:
                os.close(fd)
        elif said.get("FDSTORE") == "1":
            for fd in fds:
                known = any(same(fd, other) for _, other in self._kept)
                if not known and len(self._kept) < MAXIMUM:
                    self._kept.append((name or "stored", os.dup(fd)))

    def _reap(self) -> None:
        status = self._process.poll() if self._process is not None else None
        if status is not None:
            self._process = None
            if self._stopped:
                self._forget()
            tell("ended", status)
            if not self._stopped:
                self._start()

    def _forget(self) -> None:
        self._listener.close()
        os.unlink(LISTEN)
        for _, fd in self._kept:
            os.close(fd)
        self._kept = []


if __name__ == "__main__":
    Store(sys.argv[1:]).serve()
