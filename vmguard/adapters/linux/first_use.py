"""Whether this host's admin has put vmguard to use: until then, and after ``disable``, it takes no running VM up.

The package leaves a mark when it is installed for the first time, and so does ``vmguard disable``; ``enable`` and
``adopt`` remove it. Without the mark, as after an installation by hand, VMs without a hook are taken up.
"""

from __future__ import annotations

import os

from vmguard.adapters.linux import atomic_file

_NAME = "not-enabled"
#: it outlives a boot; a daemon with another run directory than the package's keeps its mark there
_STATE_DIR, _RUN_DIR = "/var/lib/vmguard", "/run/vmguard"


def mark(run_dir: str) -> str:
    """Return the path of the mark for the daemon of a run directory."""
    return os.path.join(_STATE_DIR if run_dir == _RUN_DIR else run_dir, _NAME)


def is_awaited(run_dir: str) -> bool:
    """Return whether no hypervisor is enabled yet, or none any more."""
    return os.path.exists(mark(run_dir))


def begin(run_dir: str) -> None:
    """Note that vmguard is in use. Raises OSError."""
    try:
        os.unlink(mark(run_dir))
    except FileNotFoundError:
        pass


def end(run_dir: str) -> None:
    """Note that it is in use no longer. Raises OSError."""
    path = mark(run_dir)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    atomic_file.write(path, b"vmguard enable and vmguard adopt remove this file\n")
