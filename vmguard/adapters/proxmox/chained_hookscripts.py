"""Keep the hookscripts that VMs had before vmguard's: /etc/pve/vmguard.cfg, a line ``VMID VOLUME PATH`` each.

One file for the cluster, because a VM takes its hookscript along when it moves; the hook itself reads it on every node
(vmguard/hook/proxmox.py). Two nodes may change it at once, and pmxcfs has no other lock between nodes than the making
of a folder (pve-cluster Cluster.pm, cfs_lock: mkdir below priv/lock, given back by the cluster after 120 s).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from vmguard.adapters.linux import atomic_file
from vmguard.errors import VmguardError

NAME = "vmguard.cfg"
_LOCK = "priv/lock/vmguard"
#: that the cluster's lock may take
LOCK_TIMEOUT_S = 10.0
_RETRY_S = 0.2


class Script(NamedTuple):
    """A hookscript: the volume that its VM's configuration named, and the file behind that."""

    volume: str
    path: str


def read(config_dir: str) -> dict[str, Script]:
    """Read the hookscripts by VMID. Raises VmguardError."""
    try:
        with open(os.path.join(config_dir, NAME), encoding="utf-8", errors="surrogateescape") as lines:
            rows = [line.rstrip("\n").split(" ", 2) for line in lines]
    except FileNotFoundError:
        return {}
    except OSError as problem:
        raise VmguardError(f"cannot read {config_dir}/{NAME}: {problem.strerror}") from problem
    return {row[0]: Script(row[1], row[2]) for row in rows if len(row) == 3}


def change(config_dir: str, changes: Mapping[str, Script | None], patience_s: float = LOCK_TIMEOUT_S) -> None:
    """Set or remove entries, all of them or none. ``patience_s`` bounds the wait for the lock. Raises VmguardError."""
    try:
        with _locked(os.path.join(config_dir, _LOCK), patience_s):
            known = read(config_dir)
            wanted = {**known, **changes}
            left = {vmid: script for vmid, script in wanted.items() if script is not None}
            if left != known:
                _write(os.path.join(config_dir, NAME), left)
    except OSError as problem:
        raise VmguardError(
            f"cannot write {config_dir}/{NAME}: {problem.strerror}",
            "as root; and the cluster must have its quorum: pvecm status",
        ) from problem


def _write(path: str, scripts: Mapping[str, Script]) -> None:
    if not scripts:
        os.unlink(path)
        return
    lines = [f"{vmid} {script.volume} {script.path}\n" for vmid, script in sorted(scripts.items())]
    # pmxcfs gives each file the mode of its folder, and has written it when it is closed.
    atomic_file.write(path, "".join(lines).encode(errors="surrogateescape"), None, sync=False)


@contextmanager
def _locked(path: str, patience_s: float) -> Iterator[None]:
    """Hold the cluster's lock. Raises VmguardError if another node does not let go of it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            os.mkdir(path)
            break
        except FileExistsError:
            if time.monotonic() >= deadline:
                raise VmguardError(
                    "another node is changing vmguard.cfg, and does not get done", f"who died there? rmdir {path}"
                ) from None
        try:
            os.utime(path, (0, 0))  # asks pmxcfs to take back a lock whose time is up
        except OSError:
            pass
        time.sleep(_RETRY_S)
    try:
        yield
    finally:
        os.rmdir(path)
