"""Processes of users who want something: ordinary ones, and the one that QEMU runs as, for a guest that has broken out.

::

    strangers = Strangers()
    strangers.start(user, "swtpm", f"{disk}=o", uuid)    # a Python program that calls itself swtpm and has a file open
    strangers.end()
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Sequence

from tests.support.processes import track

NOBODY = 65534
#: opens its arguments of the form ``PATH=``: for reading with ``o``, with a lock for writing (``w``) or reading (``r``)
OPENS = """
import fcntl, os, struct, sys
for word in sys.argv[1:]:
    path, found, what = word.rpartition("=")
    if found and path.startswith("/"):
        fd = os.open(path, os.O_RDONLY if "o" in what else os.O_RDWR)
        if "w" in what:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 1, 0))
        if "r" in what:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 100, 1, 0))
print("ready", flush=True)
sys.stdin.read()
"""
#: as a set-user-ID program of root's has it: started by a user, with his arguments
AS_SET_USER_ID = f"import os; os.setresuid({NOBODY}, 0, 0)\n"


def users() -> list[int]:
    """Return an ordinary user, and QEMU's own where this machine has one."""
    found = [NOBODY]
    for name in ("libvirt-qemu", "qemu"):
        try:
            found.append(pwd.getpwnam(name).pw_uid)
        except KeyError:
            continue
    return found


class Strangers:
    """Processes under any names, as any users; all end with ``end``."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        #: the folder that the latest one has made for itself, if it says so
        self.place = ""

    def start(self, user: int, program: str, *arguments: str, code: str = OPENS) -> subprocess.Popen[str]:
        """Start one; it has its files open when this returns."""
        pipe = subprocess.PIPE
        command: Sequence[str] = [program, "-IS", "-c", code, *arguments]
        process = track(
            subprocess.Popen(
                command,
                executable=os.path.realpath(sys.executable),
                stdin=pipe,
                stdout=pipe,
                text=True,
                cwd="/",
                user=user,
                group=user,
                extra_groups=[],
            )
        )
        self._processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        if line.startswith("/"):
            self.place, line = line.rstrip("\n"), process.stdout.readline()
        assert line == "ready\n"
        return process

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()
