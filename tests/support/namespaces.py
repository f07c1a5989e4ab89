"""A mount namespace of the test's own and, if wanted, namespaces for processes, network and host name.

What a test changes inside under /etc, /run or /var is visible only there, and ends with the namespace.

::

    with Space("mount -t tmpfs -o size=16k none /run/small") as space:
        subprocess.run([*space.prefix, "df", "/run/small"])     # the prefix joins the namespaces
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType

from tests.support.processes import track

#: the first process inside inherits orphans; it ignores SIGCHLD, so that they do not stay as zombies. Not a shell: its
#: own SIGCHLD handler would interrupt its read
_FIRST = (
    "import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print('ready', flush=True); sys.stdin.read()"
)
_INSIDE = f'set -e; {{script}}\nexec {sys.executable} -IS -c "{_FIRST}"'


class Space:
    """The namespaces, from construction until ``end``. Needs root.

    ``own_pids``: also a pid namespace, all of whose processes end with it, without a network and with a host name of
    its own.
    """

    def __init__(self, script: str, own_pids: bool = False) -> None:
        options = ["--mount", "--propagation", "private"]
        if own_pids:
            options += ["--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = ["unshare", *options, "/bin/sh", "-c", _INSIDE.format(script=script)]
        self._process = track(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        #: pid of the first process inside, as seen from outside
        self.pid = self._process.pid
        try:
            assert self._process.stdout is not None
            if self._process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"the namespaces could not be set up: {script}")
            if own_pids:
                children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
                self.pid = int(children[0])
        except BaseException:
            self.end()
            raise
        self.prefix = ["nsenter", "--target", str(self.pid), "--mount"]
        if own_pids:
            self.prefix += ["--pid", "--net", "--uts"]
        #: the root directory inside, reachable from outside; with ``own_pids``, root/proc has the pids of inside
        self.root = Path(f"/proc/{self.pid}/root")

    def __enter__(self) -> Space:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the first process, and with a pid namespace all others."""
        self._process.communicate(timeout=30)
