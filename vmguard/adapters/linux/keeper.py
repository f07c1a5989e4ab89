"""Speak to the keeper, a process beside the daemon that has no descriptor of a share (jobs/keeper.py).

It does two things that the daemon cannot do itself without waiting for the storage:

* It starts programs. A child of the daemon's has copies of all of its descriptors, and closes them at exec; a close on
  NFS may wait without end (adapters/linux/parcel.py). Linux 6.1 lets the parent of a vfork go on before that, Linux
  6.12 after it (measured): the daemon's loop stood still for as long as the storage was away. A child of the keeper's
  has none of them, whatever the kernel does. It is the daemon's own child all the same (CLONE_PARENT), which the daemon
  can wait for.
* It has a copy of each parcel that systemd keeps, so that PID 1 is not the last to close one, however the daemon ends.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Mapping, Sequence

from vmguard.adapters.linux import spawn as spawning
from vmguard.adapters.linux.spawn import ended, python, spawn_here

log = logging.getLogger("vmguard.keeper")

START, KEEP, DROP, SYNC = "start", "keep", "drop", "sync"
#: descriptors in one message; the kernel takes 253
CHUNK = 200
#: in which a program must have been started
_START_S = 5.0
#: in which the keeper must take a message that needs no answer
_TAKE_S = 0.2


class Keeper:
    """The keeper of this daemon, once ``start`` was called. Without one, programs are started by the daemon itself."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._lock_path = ""
        self._control: socket.socket | None = None
        self._pid = 0

    def start(self, lock_path: str) -> None:
        """Start it; ``lock_path`` is the file whose lock a running daemon holds.

        Call it before the first descriptor of a share is opened.
        """
        self._lock_path = lock_path
        self._start()
        spawning.start_through(self.spawn)

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        with theirs:
            try:
                words = python("vmguard.jobs.keeper", [str(theirs.fileno()), self._lock_path])
                self._pid = spawn_here(words, [theirs.fileno()])
            except OSError as problem:
                log.error("there is no keeper: the daemon may have to wait for a storage that is away: %s", problem)
                ours.close()
                return
        ours.settimeout(_TAKE_S)
        self._control = ours

    # -- programs ---------------------------------------------------------------------------------------------------

    def spawn(
        self,
        words: Sequence[str],
        fds: Sequence[int],
        stdin: int,
        stderr: int,
        env: Mapping[str, str],
        session: bool,
    ) -> int:
        """Do what ``spawn_here`` does, from the keeper."""
        places = {0: stdin, 2: stderr} | {fd: fd for fd in fds}
        places = {place: fd for place, fd in places.items() if fd >= 0}
        order = {"words": list(words), "env": dict(env), "session": session, "places": list(places)}
        for _ in range(2):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                return self._order(words[0], order, list(places.values()))
            self._again()
        return spawn_here(words, fds, stdin, stderr, env, session)

    def _order(self, program: str, order: Mapping[str, object], passed: list[int]) -> int:
        """Have the keeper start a program with copies of descriptors; return its pid."""
        with self._channel(START) as channel, open(os.memfd_create("vmguard-order", os.MFD_CLOEXEC), "w+b") as stream:
            stream.write(json.dumps(order).encode())
            stream.flush()
            socket.send_fds(channel, [b"order"], [stream.fileno()])
            for begin in range(0, len(passed), CHUNK):
                socket.send_fds(channel, [b"fds"], passed[begin : begin + CHUNK])
            told = channel.recv(64)
            if not told:
                raise BrokenPipeError("the keeper went away")
            pid = int(told)
            try:
                failed = channel.recv(64)  # nothing, when exec has closed the other end
            except TimeoutError:
                log.warning("%s takes long to start", program)
                return pid
        if failed:
            os.waitpid(pid, 0)
            raise OSError(int(failed), os.strerror(int(failed)), program)
        return pid

    def _channel(self, word: str) -> socket.socket:
        """Return our end of a new connection, whose other end the keeper has got with a word."""
        control = self._control
        if control is None:
            raise BrokenPipeError("there is no keeper")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        ours.settimeout(_START_S)
        with theirs:
            try:
                socket.send_fds(control, [word.encode()], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        return ours

    def _again(self) -> None:
        """Start another keeper in the place of one that is gone."""
        with self._mutex:
            if self._pid and ended(self._pid) is None:
                return  # another thread was faster
            log.error("the keeper was gone and is started again; it has no copies of what systemd keeps until then")
            self._control, self._pid = None, 0
            self._start()

    # -- parcels ----------------------------------------------------------------------------------------------------

    def keep(self, name: str, parcel: int) -> None:
        """Leave a copy of a parcel with the keeper."""
        self._tell(KEEP, name, [parcel])

    def drop(self, name: str) -> None:
        """Have the keeper close its copies of that name."""
        self._tell(DROP, name, [])

    def _tell(self, word: str, name: str, fds: list[int]) -> None:
        if self._control is None:
            return
        try:
            socket.send_fds(self._control, [f"{word} {name}".encode(errors="backslashreplace")], fds)
        except OSError as problem:
            log.error("the keeper was not told to %s %s: %s", word, name, problem)

    def sync(self, seconds: float) -> bool:
        """Wait until the keeper has done all that it was told before; return False if it does not in time."""
        if self._control is None:
            return True
        try:
            with self._channel(SYNC) as channel:
                channel.settimeout(seconds)
                channel.recv(1)
        except TimeoutError:
            return False
        except OSError:
            return True  # it is gone, and has nothing open
        return True


keeper = Keeper()
