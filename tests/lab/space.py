"""What every lab is built in: one namespace each for network and processes, one directory, one keeper.

The keeper is process 1 of a new process namespace, with a new network namespace, and does nothing but wait for the
end of its standard input. Every guest's processes live below it. So however the test process ends (SIGKILL
included), the keeper reads end of file and ends, and the kernel kills all guests and drops bridge and taps with it.
Only a directory can be left, if the keeper is killed as well; `python -m tests.lab.sweep` removes it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.lab.errors import LabError, LabUnavailable
from tests.lab.kernels import OWN

BASE: Final = Path(os.environ.get("TMPDIR", "/var/tmp")) / "vmguard-lab"
RUN_AND_END: Final = '"$@"; exit $?'
XSTATE: Final = Path(__file__).with_name("xstate.c")
KEEPER: Final = 'echo ready; read -r word; kill -KILL -1 2>/dev/null; [ "$word" = keep ] || rm -rf "$0"'


def start_time(pid: int) -> int | None:
    """Return a process's start time in clock ticks since boot, None if it is gone; with the pid, it identifies it."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return None


def descendant(pid: int, generations: int) -> int | None:
    """Return the only child's only child ... of a process; start() makes the chain nsenter, unshare, sh, kernel."""
    for _ in range(generations):
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        if not children:
            return None
        pid = int(children[0])
    return pid


class Space:
    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise LabUnavailable("the lab needs root (namespaces, taps)")
        if not OWN.program.exists():
            raise LabUnavailable(f"{OWN.program} is missing: run tests/setup")
        owner = os.getpid()
        BASE.mkdir(exist_ok=True)
        self.directory = Path(tempfile.mkdtemp(prefix=f"{owner}-{start_time(owner)}-", dir=BASE))
        wanted = os.environ.get("VMGUARD_LAB_LOGS")
        self.logs = Path(wanted) / self.directory.name if wanted else self.directory / "logs"
        self.logs.mkdir(parents=True)
        self._xstate = self.directory / "xstate.so"
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", str(self._xstate), str(XSTATE)], check=True, timeout=60)
        self._keeper = subprocess.Popen(
            ["unshare", "--net", "--pid", "--fork", "--kill-child", "--", "/bin/sh", "-c", KEEPER, str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._keeper.stdout is not None
        if self._keeper.stdout.readline() != b"ready\n":
            raise LabUnavailable("no namespaces: unshare failed")
        pid = self._keeper.pid
        (self.directory / "keeper").write_text(f"{pid} {start_time(pid)}")
        self._enter = ["nsenter", f"--net=/proc/{pid}/ns/net"]
        self._enter_all = [*self._enter, f"--pid=/proc/{pid}/ns/pid_for_children"]

    def run(self, argv: Sequence[str]) -> str:
        """Run a program of this machine inside the lab's network namespace; return its output."""
        done = subprocess.run([*self._enter, *argv], capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise LabError(f"{argv} failed: {done.stderr.strip()}")
        return done.stdout

    def start(self, argv: Sequence[str], line: int, console: Path) -> subprocess.Popen[bytes]:
        """Start a guest's kernel in a process namespace of its own, so that all of it dies at once.

        Process 1 is a shell: the kernel itself in that place could not abort() when it panics.
        """
        with console.open("ab") as output:
            return subprocess.Popen(
                [
                    *self._enter_all,
                    "unshare",
                    "--pid",
                    "--fork",
                    "--kill-child",
                    "/bin/sh",
                    "-c",
                    RUN_AND_END,
                    "sh",
                    *argv,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[line],
                start_new_session=True,
                env={
                    "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
                    "HOME": str(self.directory),
                    "LD_PRELOAD": str(self._xstate),
                },
            )

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill what start() started; all of it is dead when this returns."""
        shell = descendant(process.pid, 2)
        if shell is not None:
            os.kill(shell, signal.SIGKILL)
        process.wait(10)

    def kernel_pid(self, process: subprocess.Popen[bytes]) -> int | None:
        """Return the host's pid of the kernel that start() started."""
        return descendant(process.pid, 3)

    def close(self, keep_logs: bool) -> None:
        """End everything inside, then remove the directory (all but the logs, when they are wanted)."""
        assert self._keeper.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.write(b"keep\n")
            self._keeper.stdin.close()
        try:
            self._keeper.wait(10)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait(10)
        if not keep_logs:
            shutil.rmtree(self.logs, ignore_errors=True)
            shutil.rmtree(self.directory, ignore_errors=True)
            return
        for entry in self.directory.iterdir():
            if entry != self.logs:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def dead_labs() -> Iterator[Path]:
    """Yield the directories of labs whose owner is dead, including those with logs kept after a failure."""
    for directory in BASE.glob("*-*-*"):
        pid, started = directory.name.split("-")[:2]
        if pid.isdigit() and str(start_time(int(pid))) != started:
            yield directory


def sweep_one(directory: Path) -> None:
    """Remove what is left of a dead lab: its keeper, with it its guests, and its directory."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        pid, started = (directory / "keeper").read_text().split()
        if str(start_time(int(pid))) == started:
            os.kill(int(pid), signal.SIGKILL)
    shutil.rmtree(directory, ignore_errors=True)
