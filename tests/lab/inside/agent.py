"""The lab's agent inside a guest: runs commands that the test process sends over a serial line.

init.sh starts it (as process 1, or as a unit under systemd) with the path of the tty. It needs only the standard
library, because it starts before anything else works. The test process imports the frames from here.

One thread that never waits: whatever may hang (a command on a dead NFS mount, even the `cd` or the exec) hangs in a
child, so the line stays usable. A line that is hung up means that the test process is gone: the guest powers off.

    frame     4 bytes length of the payload, 1 byte kind, 4 bytes job, payload; big endian
    to here   RUN {"argv", "env", "cwd", "stdin"}   INPUT bytes   END_OF_INPUT   SIGNAL number   CLOCK
    back      HELLO {"boot_id", "kernel"}   STARTED pid   STDOUT bytes   STDERR bytes   EXIT code (as subprocess counts)
              CLOCK nanoseconds of CLOCK_REALTIME   TAKEN bytes read from the line since the last TAKEN

TAKEN is the line's flow control. The sender keeps at most WINDOW bytes in flight: once the guest's tty throttles its
input (at 4 KiB), the UML serial driver stops reading for good.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass, field

HEADER = struct.Struct(">IBI")
CHUNK = 65536
WINDOW = 2048
SHELL = ("/bin/sh", "-c", 'cd "$1" && shift && exec "$@"', "sh")


class Kind(enum.IntEnum):
    HELLO = 1
    RUN = 2
    STARTED = 3
    INPUT = 4
    END_OF_INPUT = 5
    STDOUT = 6
    STDERR = 7
    EXIT = 8
    SIGNAL = 9
    CLOCK = 10
    TAKEN = 11


@dataclass(frozen=True)
class Frame:
    kind: Kind
    job: int
    payload: bytes = b""

    def pack(self) -> bytes:
        return HEADER.pack(len(self.payload), self.kind, self.job) + self.payload


class Unpacker:
    """A parser that turns the bytes of the line back into frames, wherever they were split."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        self._pending += data
        while len(self._pending) >= HEADER.size:
            length, kind, job = HEADER.unpack_from(self._pending)
            end = HEADER.size + length
            if len(self._pending) < end:
                return
            payload = bytes(self._pending[HEADER.size : end])
            del self._pending[:end]
            yield Frame(Kind(kind), job, payload)


@dataclass
class Command:
    """A running command: its process, and the ends of its pipes that are still open."""

    job: int
    pid: int
    stdin: int | None
    outputs: dict[int, Kind]
    unsent: bytearray = field(default_factory=bytearray)
    input_ended: bool = False


class Agent:
    def __init__(self, line: int) -> None:
        self._line = line
        self._commands: dict[int, Command] = {}
        self._selector = selectors.DefaultSelector()
        self._unpacker = Unpacker()

    def serve(self) -> None:
        """Serve until the line is hung up."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._selector.register(self._line, selectors.EVENT_READ)
        self._selector.register(wake_read, selectors.EVENT_READ)
        with open("/proc/sys/kernel/random/boot_id") as file:
            hello = {"boot_id": file.read().strip(), "kernel": os.uname().release}
        self._send(Frame(Kind.HELLO, 0, json.dumps(hello).encode()))
        while True:
            for key, events in self._selector.select():
                if key.fd == self._line:
                    data = _read(self._line)
                    if not data:
                        return
                    self._send(Frame(Kind.TAKEN, 0, b"%d" % len(data)))
                    for frame in self._unpacker.feed(data):
                        self._obey(frame)
                elif key.fd == wake_read:
                    _read(wake_read)
                    self._reap()
                elif events & selectors.EVENT_WRITE:
                    self._feed(key.data)
                elif key.fd in key.data.outputs:  # else closed by _reap() in this very round
                    self._forward(key.data, key.fd)

    def _send(self, frame: Frame) -> None:
        data = memoryview(frame.pack())
        while data:
            data = data[os.write(self._line, data) :]

    def _obey(self, frame: Frame) -> None:
        if frame.kind == Kind.RUN:
            self._start(frame)
            return
        if frame.kind == Kind.CLOCK:
            self._send(Frame(Kind.CLOCK, frame.job, b"%d" % time.time_ns()))
            return
        command = self._commands.get(frame.job)
        if command is None:
            return
        if frame.kind == Kind.INPUT:
            command.unsent += frame.payload
            self._feed(command)
        elif frame.kind == Kind.END_OF_INPUT:
            command.input_ended = True
            self._feed(command)
        elif frame.kind == Kind.SIGNAL:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(command.pid, int(frame.payload))

    def _start(self, frame: Frame) -> None:
        order = json.loads(frame.payload)
        try:
            # A shell in between does the `cd` and the exec: fork_exec holds the interpreter's lock until the exec is
            # done, and an exec from a dead mount never is.
            process = subprocess.Popen(
                [*SHELL, order["cwd"], *order["argv"]],
                env=order["env"],
                stdin=subprocess.PIPE if order["stdin"] else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            self._send(Frame(Kind.STDERR, frame.job, f"agent: {error}\n".encode()))
            self._send(Frame(Kind.EXIT, frame.job, b"126"))
            return
        stdin = None
        if process.stdin is not None:
            stdin = _detach(process.stdin.fileno())
        assert process.stdout is not None
        assert process.stderr is not None
        outputs = {_detach(process.stdout.fileno()): Kind.STDOUT, _detach(process.stderr.fileno()): Kind.STDERR}
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        process.returncode = 0  # _reap() collects it: the object must not wait for it a second time
        command = Command(frame.job, process.pid, stdin, outputs)
        self._commands[frame.job] = command
        for fd in outputs:
            self._selector.register(fd, selectors.EVENT_READ, command)
        self._send(Frame(Kind.STARTED, frame.job, b"%d" % process.pid))

    def _feed(self, command: Command) -> None:
        """Write as much of the command's input as its pipe takes now."""
        fd = command.stdin
        if fd is None:
            return
        try:
            while command.unsent:
                del command.unsent[: os.write(fd, command.unsent[:CHUNK])]
        except BlockingIOError:
            with contextlib.suppress(KeyError):
                self._selector.register(fd, selectors.EVENT_WRITE, command)
            return
        except BrokenPipeError:
            command.unsent.clear()
            command.input_ended = True
        with contextlib.suppress(KeyError):
            self._selector.unregister(fd)
        if command.input_ended:
            os.close(fd)
            command.stdin = None

    def _forward(self, command: Command, fd: int) -> bool:
        """Forward what one of the command's outputs holds; return whether there may be more right away."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        if data:
            self._send(Frame(command.outputs[fd], command.job, data))
            return True
        self._selector.unregister(fd)
        os.close(fd)
        del command.outputs[fd]
        return False

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for command in self._commands.values():
                if command.pid == pid:
                    self._finish(command, os.waitstatus_to_exitcode(status))
                    break

    def _finish(self, command: Command, code: int) -> None:
        """Report the end, after everything printed before it; a daemon left behind may keep printing."""
        for fd in list(command.outputs):
            while self._forward(command, fd):
                pass
        self._send(Frame(Kind.EXIT, command.job, b"%d" % code))
        del self._commands[command.job]
        command.input_ended = True
        command.unsent.clear()
        self._feed(command)


def _detach(fd: int) -> int:
    copy = os.dup(fd)
    os.set_blocking(copy, False)
    return copy


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, CHUNK)
    except OSError:  # the line was hung up
        return b""


def _power_off() -> None:
    ctypes.CDLL(None).reboot(0x4321FEDC)  # RB_POWER_OFF, without a sync: that could hang on NFS


def main() -> None:
    line = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line, termios.TCSANOW)
    try:
        Agent(line).serve()
    finally:
        _power_off()


if __name__ == "__main__":
    main()
