"""A corner of this machine with mounts (and, if wanted, processes) of its own: what a test changes there under /etc,
/run or /var nobody else sees, and all of it is gone with the corner.

::

    with Space("mount -t tmpfs -o size=16k none /run/small") as space:
        subprocess.run([*space.prefix, "df", "/run/small"])     # the prefix joins the corner
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType

#: the corner's first process inherits orphans; with CHLD ignored they do not stay as zombies (a shell would not do: its
#: own handler of CHLD would interrupt its read)
_FIRST = (
    "import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print('ready', flush=True); sys.stdin.read()"
)
_INSIDE = f'set -e; {{script}}\nexec {sys.executable} -IS -c "{_FIRST}"'


class Space:
    """Needs root. ``own_pids``: processes are numbered anew inside, and end with the corner, whatever they are; it has
    no network then, either, and may have a host name of its own."""

    def __init__(self, script: str, own_pids: bool = False) -> None:
        options = ["--mount", "--propagation", "private"]
        if own_pids:
            options += ["--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._process = subprocess.Popen(
            ["unshare", *options, "/bin/sh", "-c", _INSIDE.format(script=script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            self.end()
            raise RuntimeError(f"the corner could not be furnished: {script}")
        #: pid of a process that is inside, seen from outside
        self.pid = self._process.pid
        if own_pids:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            self.pid = int(children[0])
        self.prefix = ["nsenter", "--target", str(self.pid), "--mount"]
        if own_pids:
            self.prefix += ["--pid", "--net", "--uts"]
        #: its root directory, reachable from outside; with ``own_pids`` root/proc has the numbers of inside
        self.root = Path(f"/proc/{self.pid}/root")

    def __enter__(self) -> Space:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End its first process, with it all others if it has its own numbers."""
        self._process.communicate(timeout=30)
