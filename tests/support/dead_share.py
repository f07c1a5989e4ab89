"""A library between a program and libc for which folders and files are a share that does not answer.

::

    share = DeadShare(tmp_path, [folder, "/proc/1234/cmdline"])
    run(command, env=share.environment())     # all is well
    share.die()                               # each call on a path or a descriptor below them hangs ...
    share.heal()                              # ... and goes on

It is that program's alone: what others do there is not changed, and a hanging call ends by SIGKILL, as on NFS. That a
read of a process's arguments hangs can be played by naming that file.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

_SOURCE = Path(__file__).with_name("dead_share.c")


class DeadShare:
    """Some places, alive until ``die``."""

    def __init__(self, folder: Path, places: Sequence[Path | str]) -> None:
        """``folder``: for the library and a flag; it must not lie below the places."""
        self._flag = folder / "dead-share.flag"
        self._places = ":".join(map(str, places))
        self._library = folder / "dead_share.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", self._library, _SOURCE], check=True)

    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "DEAD": self._places, "DEAD_WHILE": str(self._flag)}

    def die(self) -> None:
        self._flag.touch()

    def heal(self) -> None:
        if os.path.exists(self._flag):
            self._flag.unlink()
