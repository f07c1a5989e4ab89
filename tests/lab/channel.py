"""The serial line to the agent in a guest: jobs on this side, frames on the wire. It does not use the lab's network."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from signal import SIGKILL
from typing import Final

from tests.lab.errors import GuestDown, GuestTimeout, Result
from tests.lab.inside.agent import CHUNK, WINDOW, Frame, Kind, Unpacker

ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}

SEND_SECONDS: Final = 30.0  # a guest that reads nothing for this long is stuck or paused


class Job:
    """A command that runs in a guest.

    job = guest.spawn(["sleep", "60"])
    job.poll()              its exit code, None while it runs
    job.wait(5)             its Result; GuestTimeout after 5 s (the command goes on)
    job.wait_for("ready")   until the regular expression is found in its standard output
    job.output()            what it has printed until now, standard output and standard error
    job.send(b"line\\n")    its input (only with stdin=True); job.end_input() closes it
    job.kill()              SIGKILL to its process group; a process in state D stays until NFS answers
    """

    def __init__(self, channel: Channel, number: int, command: str) -> None:
        self.command = command
        self.pid: int | None = None  # inside the guest, known once it has started
        self._channel = channel
        self._number = number
        self._changed = threading.Condition()
        self._stdout = bytearray()
        self._stderr = bytearray()
        self._code: int | None = None
        self._lost = False

    def poll(self) -> int | None:
        return self._code

    def output(self) -> tuple[str, str]:
        with self._changed:
            return self._stdout.decode(errors="replace"), self._stderr.decode(errors="replace")

    def wait(self, timeout: float) -> Result:
        """Wait for the end of the command, `timeout` seconds; return its Result."""
        with self._changed:
            self._wait(lambda: self._code is not None, self.command, timeout)
            assert self._code is not None
            return Result(self._code, bytes(self._stdout), bytes(self._stderr))

    def wait_for(self, pattern: str, timeout: float = 10.0) -> re.Match[str]:
        """Return the first match in standard output; GuestTimeout after `timeout` seconds or when the command ends."""
        compiled = re.compile(pattern, re.MULTILINE)

        def found() -> re.Match[str] | None:
            return compiled.search(self._stdout.decode(errors="replace"))

        with self._changed:
            self._wait(lambda: self._code is not None or found() is not None, f"{self.command}: {pattern}", timeout)
            match = found()
            if match is None:
                raise GuestTimeout(
                    self._channel.guest, f"{self.command}: {pattern}", 0, bytes(self._stdout), bytes(self._stderr)
                )
            return match

    def wait_started(self, timeout: float = 10.0) -> int:
        """Wait until the command has started; return its pid inside the guest."""
        with self._changed:
            self._wait(lambda: self.pid is not None or self._code is not None, self.command, timeout)
            return self.pid or 0

    def send(self, data: bytes) -> None:
        for start in range(0, len(data), CHUNK):
            self._channel.send(Frame(Kind.INPUT, self._number, data[start : start + CHUNK]))

    def end_input(self) -> None:
        self._channel.send(Frame(Kind.END_OF_INPUT, self._number))

    def kill(self, signal: int = SIGKILL) -> None:
        if self._code is None:
            self._channel.send(Frame(Kind.SIGNAL, self._number, b"%d" % signal))

    def _wait(self, done: Callable[[], bool], what: str, timeout: float) -> None:
        finished = self._changed.wait_for(lambda: done() or self._lost, timeout)
        if done():
            return
        if self._lost:
            raise GuestDown(f"{self._channel.guest}: went down during {what!r}; printed: {bytes(self._stdout)!r}")
        assert not finished
        raise GuestTimeout(self._channel.guest, what, timeout, bytes(self._stdout), bytes(self._stderr))

    def take(self, frame: Frame) -> None:
        with self._changed:
            if frame.kind == Kind.STDOUT:
                self._stdout += frame.payload
            elif frame.kind == Kind.STDERR:
                self._stderr += frame.payload
            elif frame.kind == Kind.STARTED:
                self.pid = int(frame.payload)
            elif frame.kind == Kind.EXIT:
                self._code = int(frame.payload)
            self._changed.notify_all()

    def lose(self) -> None:
        with self._changed:
            self._lost = True
            self._changed.notify_all()


class Channel:
    """The line of one boot. A thread of its own reads it; any number of threads may send."""

    def __init__(self, guest: str, line: socket.socket, log: Callable[[str], None]) -> None:
        self.guest = guest
        self.boot: Mapping[str, str] = {}  # what the agent said about itself: boot_id, kernel
        self._line = line
        self._log = log
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._sending = threading.Lock()
        self._taken = threading.Condition()
        self._on_the_way = 0
        self._asking = threading.Lock()
        self._clock_answered = threading.Event()
        self._clock = 0.0
        self._ready = threading.Event()
        self._down = False
        self._reader = threading.Thread(target=self._read, name=f"lab line of {guest}", daemon=True)
        self._reader.start()

    def wait_ready(self, timeout: float) -> None:
        """Wait until the agent answers; `timeout` in seconds."""
        if not self._ready.wait(timeout):
            raise GuestTimeout(self.guest, "boot", timeout)
        if self._down:
            raise GuestDown(f"{self.guest}: went down while booting")

    def spawn(self, argv: Sequence[str], cwd: str, env: Mapping[str, str], stdin: bool) -> Job:
        number = next(self._numbers)
        job = Job(self, number, " ".join(argv))
        self._jobs[number] = job
        self._log(f"{number:4} run  {job.command[:400]}")
        order = {"argv": list(argv), "cwd": cwd, "env": {**ENVIRONMENT, **env}, "stdin": stdin}
        self.send(Frame(Kind.RUN, number, json.dumps(order).encode()))
        if self._down:
            job.lose()
        return job

    def send(self, frame: Frame) -> None:
        data = frame.pack()
        try:
            with self._sending:
                for start in range(0, len(data), WINDOW):
                    piece = data[start : start + WINDOW]
                    self._make_room(len(piece))
                    self._line.sendall(piece)
        except OSError as error:
            raise GuestDown(f"{self.guest}: is switched off") from error

    def _make_room(self, length: int) -> None:
        """Wait until the guest has taken enough of what was sent for `length` bytes more."""
        with self._taken:
            room = self._taken.wait_for(lambda: self._down or self._on_the_way + length <= WINDOW, SEND_SECONDS)
            if self._down:
                raise GuestDown(f"{self.guest}: is switched off")
            if not room:
                raise GuestTimeout(self.guest, "send", SEND_SECONDS)
            self._on_the_way += length

    def clock(self, timeout: float = 10.0) -> float:
        """Return the guest's CLOCK_REALTIME in seconds."""
        with self._asking:
            self._clock_answered.clear()
            self.send(Frame(Kind.CLOCK, 0))
            if not self._clock_answered.wait(timeout):
                raise GuestTimeout(self.guest, "clock", timeout)
            return self._clock

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._reader.join(10)
        self._line.close()

    def _read(self) -> None:
        unpacker = Unpacker()
        try:
            while data := self._line.recv(CHUNK):
                for frame in unpacker.feed(data):
                    self._take(frame)
        except OSError:
            pass
        with self._taken:
            self._down = True
            self._taken.notify_all()
        self._ready.set()
        for job in list(self._jobs.values()):
            job.lose()

    def _take(self, frame: Frame) -> None:
        if frame.kind == Kind.HELLO:
            self.boot = json.loads(frame.payload)
            self._ready.set()
            return
        if frame.kind == Kind.TAKEN:
            with self._taken:
                self._on_the_way -= int(frame.payload)
                self._taken.notify_all()
            return
        if frame.kind == Kind.CLOCK:
            self._clock = int(frame.payload) / 1e9
            self._clock_answered.set()
            return
        job = self._jobs.get(frame.job)
        if job is None:
            return
        job.take(frame)
        if frame.kind == Kind.EXIT:
            # The job stays in the table: a daemon it left behind may still print into its pipes.
            self._log(f"{frame.job:4} exit {frame.payload.decode()}")
