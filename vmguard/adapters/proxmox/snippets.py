"""Install the hookscript on a node: ``local:snippets/vmguard``, a file that Proxmox looks up at each start.

Where the package's own file fits as it is, the place is a link to it, and an upgrade renews it by itself; for an
installation elsewhere it is a copy with that one's paths filled in.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from vmguard.adapters.linux import atomic_file, mounts, roots_file
from vmguard.errors import VmguardError

NAME = "vmguard"
#: what tells our hookscript from anybody else's
_MARK = "# vmguard: the hookscript"
PACKAGED = "/usr/share/vmguard/hooks/vmguard-hookscript"

OURS, FOREIGN, NOTHING = "ours", "foreign", "nothing"


def place(folder: str) -> str:
    return os.path.join(folder, NAME)


def what_is_there(path: str, packaged: str = PACKAGED) -> str:
    """Return OURS, FOREIGN (another file of that name) or NOTHING. ``packaged``: the package's own file.

    Raises VmguardError.
    """
    if not os.path.lexists(path):
        return NOTHING
    if os.path.islink(path) and os.readlink(path) == packaged:
        return OURS  # also while the package is away
    try:
        if not os.path.isfile(path):
            return FOREIGN
        with open(path, encoding="utf-8", errors="replace") as stream:
            return OURS if _MARK in stream.read(4096) else FOREIGN
    except OSError as problem:
        raise VmguardError(f"cannot read {path}: {problem.strerror}", "run this as root") from problem


def is_current(path: str, text: str) -> bool:
    """Return whether the hookscript there is this installation's and Proxmox may run it."""
    if not os.access(path, os.X_OK) or not (_is_link_to_package(path) or _is_roots(path)):
        return False
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read() == text


def _is_link_to_package(path: str) -> bool:
    return os.path.islink(path) and os.readlink(path) == PACKAGED


def _is_roots(path: str) -> bool:
    """Return whether it is a regular file that only root can change: somebody else's copy reads the same today."""
    status = os.lstat(path)
    return stat.S_ISREG(status.st_mode) and roots_file.is_roots(status)


def why_not_here(folder: str, table: Iterable[mounts.Mount]) -> str:
    """Return why a folder must not have it; empty if it may. On a share each start would hang with the share."""
    found = max(
        (mount for mount in table if f"{folder}/".startswith(mount.point.rstrip("/") + "/")),
        key=lambda mount: len(mount.point),
        default=None,
    )
    return f"{folder} lies on NFS ({found.source}): Proxmox would hang with it" if found and found.is_nfs else ""


def install(path: str, text: str, packaged: str = PACKAGED) -> None:
    """Put the hookscript there, whole or not at all: as a link to the package's own file if it is the same.

    Raises VmguardError.
    """
    roots_file.require_folder(os.path.dirname(path))
    try:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        if _reads(packaged) == text:
            atomic_file.link(path, packaged)
        else:
            atomic_file.write(path, text.encode(), 0o755)
    except OSError as problem:
        raise VmguardError(f"{path} cannot be written: {problem.strerror}", "run this as root") from problem


def remove(path: str) -> None:
    """Remove the hookscript. Raises VmguardError."""
    try:
        os.unlink(path)
    except OSError as problem:
        raise VmguardError(f"{path} cannot be removed: {problem.strerror}", "run this as root") from problem


def _reads(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError:
        return ""
