"""A guest: a User Mode Linux kernel with the host's programs, which is switched on and off and runs commands.

Measured on two cores: 2-4 s from power to the first command, 60 ms per command. A guest's CLOCK_REALTIME and
CLOCK_MONOTONIC are driven by the host's clock; see Guest.clock_offset.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.lab.channel import Channel, Job
from tests.lab.errors import CommandFailed, GuestDown, GuestTimeout, LabError, Result
from tests.lab.kernels import Kernel, kernel
from tests.lab.locker import Locker
from tests.lab.net import Port
from tests.lab.space import Space

REPOSITORY: Final = Path(__file__).resolve().parents[2]
PYTHON: Final = "/usr/bin/python3"
BOOT_SECONDS: Final = 60.0  # a guest boots in 2 s, on a busy machine in ten times that
BIG: Final = 65536  # the line takes 1 MB/s: bigger files go through the shared directory


@dataclass(frozen=True)
class Hardware:
    """The properties of a guest that survive its reboots."""

    name: str  # in the lab
    hostname: str  # what the guest calls itself; equal names make clones
    port: Port
    memory: str  # as UML takes it: "256M"
    modules: Sequence[str] = ()
    images: Sequence[Path] = field(default_factory=list)
    shared: bool = False  # other guests have the images, too, and no lock keeps two of them from mounting one at once
    init: str = "agent"
    kernel: Kernel = field(default_factory=kernel)


class Guest:
    """A guest. boot() switches it on; a role (server, hypervisor) overrides prepare().

    boot() returns at once and the guest starts in the background; each call that needs the guest waits for it. So the
    guests of a lab boot side by side.
    """

    def __init__(self, space: Space, hardware: Hardware) -> None:
        self.hardware = hardware
        self.share = space.directory / "share" / hardware.name  # in the guest: /lab
        self.share.mkdir(parents=True)
        self.console = space.logs / f"{hardware.name}.console"
        self.boots = 0
        self._log_path = space.logs / f"{hardware.name}.log"
        self._space = space
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._ready: Future[None] | None = None

    @property
    def name(self) -> str:
        return self.hardware.name

    @property
    def address(self) -> str:
        return self.hardware.port.address

    # power

    def boot(self) -> None:
        """Switch the guest on in the background; wait() and every command wait until it is up."""
        if self.is_on():
            raise LabError(f"{self.name}: is already switched on")
        self._release()
        self.boots += 1
        self._note(f"boot {self.boots}")
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = self._space.start(self._command_line(theirs.fileno()), theirs.fileno(), self.console)
        self._channel = Channel(self.name, ours, self._note)
        ready: Future[None] = Future()
        self._ready = ready
        threading.Thread(target=self._finish_boot, args=(self._channel, ready), daemon=True).start()

    def wait(self) -> None:
        """Wait until the guest is up and has taken its role. Raises what went wrong in that."""
        if self._ready is None:
            raise GuestDown(f"{self.name}: is switched off")
        self._ready.result()

    def is_on(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def power_cut(self) -> None:
        """Kill all of the guest's processes; they are dead when this returns, and nothing was flushed."""
        process = self._process
        if process is None:
            return
        self._note("power cut")
        self._space.kill(process)
        self._release()

    def pause(self) -> None:
        """Stop the whole guest (SIGSTOP to its kernel), as on a host that stalls."""
        self._signal_kernel(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_kernel(signal.SIGCONT)

    def boot_id(self) -> str:
        return self._line().boot["boot_id"]

    # commands

    def run(
        self,
        command: str | Sequence[str],
        timeout: float = 10.0,
        check: bool = True,
        input: bytes | str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> Result:
        """Run a command (a string: by sh -c) and wait for it, at most `timeout` seconds.

        GuestTimeout carries what it had printed; its process group gets SIGKILL then, which a process hung on NFS
        (state D) obeys only once the server answers.
        """
        job = self.spawn(command, env=env, cwd=cwd, stdin=input is not None)
        try:
            if input is not None:
                job.send(input.encode() if isinstance(input, str) else input)
                job.end_input()
            result = job.wait(timeout)
        except (GuestTimeout, KeyboardInterrupt):
            with contextlib.suppress(GuestDown):
                job.kill()
            raise
        if check and result.returncode:
            raise CommandFailed(self.name, job.command, result)
        return result

    def spawn(
        self,
        command: str | Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        stdin: bool = False,
    ) -> Job:
        """Start a command (a string: by sh -c) in a session of its own and return at once."""
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        return self._line().spawn(argv, cwd, env or {}, stdin)

    def put(self, path: str, data: bytes, mode: int = 0o644, timeout: float = 30.0) -> None:
        """Write or replace a file in the guest; create its folder if needed.

        The file is synced: on a server's disk it survives an immediate power cut.
        """
        write = 'mkdir -p "$(dirname "$1")" && cat "${3:--}" > "$1" && chmod "$2" "$1" && sync "$1"'
        if len(data) <= BIG:
            self.run(["sh", "-c", write, "put", path, f"{mode:o}"], timeout, input=data)
            return
        parcel = self.share / f"put-{threading.get_ident()}"
        parcel.write_bytes(data)
        try:
            self.run(["sh", "-c", write, "put", path, f"{mode:o}", f"/lab/{parcel.name}"], timeout)
        finally:
            parcel.unlink()

    def get(self, path: str, timeout: float = 30.0) -> bytes:
        return self.run(["cat", path], timeout).stdout_bytes

    def dmesg(self) -> str:
        """Return the kernel's log since boot."""
        return self.run(["dmesg"]).stdout

    def locker(self, path: str, flags: str = "rw,direct,create") -> Locker:
        """Start a process in the guest that keeps a file open and locks, reads and writes it on demand."""
        return Locker(self.spawn([PYTHON, f"{REPOSITORY}/tests/lab/inside/holder.py", path, flags], stdin=True))

    def clock_offset(self) -> float:
        """Return the seconds by which the guest's CLOCK_REALTIME is ahead of the host's, within half a command (5 ms).

        Guests read the host's clock and do not slew it, so that timestamps of two guests may be compared.
        """
        line = self._line()
        samples = []
        for _ in range(5):
            before = time.time()
            there = line.clock()
            after = time.time()
            samples.append((after - before, there - (before + after) / 2))
        return min(samples)[1]

    # for roles

    def prepare(self) -> None:
        """Set up the guest's role after each boot; runs in the background before wait() returns."""

    def prepare_run(self, command: str, timeout: float = 20.0) -> Result:
        """Run a command from prepare(), when the guest does not count as ready yet."""
        assert self._channel is not None
        result = self._channel.spawn(["/bin/sh", "-ec", command], "/", {}, False).wait(timeout)
        if result.returncode:
            raise CommandFailed(self.name, command, result)
        return result

    # inside

    def _command_line(self, line: int) -> list[str]:
        hardware = self.hardware
        machine_id = hashlib.md5(f"{self._space.directory}/{hardware.name}".encode()).hexdigest()
        words = {
            "lab_host": hardware.hostname,
            "lab_addr": hardware.port.cidr,
            "lab_mac": hardware.port.mac_now(),
            "lab_repo": str(REPOSITORY),
            "lab_id": machine_id,
            "lab_share": str(self.share),
            "lab_init": hardware.init,
            "lab_modules": ",".join(hardware.modules),
            "lab_kernel": str(hardware.kernel.modules),
        }
        state = self._space.directory / "uml" / f"{hardware.name}-{self.boots}"
        state.mkdir(parents=True)
        flags = "sc" if hardware.shared else "s"  # s: opened O_SYNC
        return [
            str(hardware.kernel.program),
            f"mem={hardware.memory}",
            *("rootfstype=hostfs", "rootflags=/", "ro", f"init={REPOSITORY}/tests/lab/inside/init.sh"),
            *("con=null", "con0=null,fd:1", "ssl=null", f"ssl0=fd:{line}", "quiet"),
            *(f"uml_dir={state}/", f"umid={hardware.name}"),
            f"vec0:transport=tap,ifname={hardware.port.tap},depth=64,gro=1",
            *(f"ubd{letter}{flags}={image}" for letter, image in zip("abcd", hardware.images, strict=False)),
            *(f"{key}={value}" for key, value in words.items()),
        ]

    def _finish_boot(self, channel: Channel, ready: Future[None]) -> None:
        try:
            channel.wait_ready(BOOT_SECONDS)
            self.prepare()
        except BaseException as error:
            ready.set_exception(error)
        else:
            ready.set_result(None)

    def _line(self) -> Channel:
        self.wait()
        if self._channel is None:
            raise GuestDown(f"{self.name}: is switched off")
        return self._channel

    def _signal_kernel(self, number: signal.Signals) -> None:
        pid = self._space.kernel_pid(self._process) if self._process else None
        if pid is None:
            raise GuestDown(f"{self.name}: is switched off")
        os.kill(pid, number)

    def _release(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._process = self._channel = self._ready = None

    def _note(self, text: str) -> None:
        with self._log_path.open("a") as log:
            log.write(f"{time.time():.3f} {text}\n")
