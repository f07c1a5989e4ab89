"""Proxmox's hookscript, behind the shell shim hooks/vmguard-hookscript: ``proxmox.py VMID PHASE``.

What each phase does stands in vmguard/hook/operations.py. What it prints on stderr lands in the task log. Proxmox
waits for as long as it takes (no timeout), but it waits for the end of both pipes as well: nothing that outlives the
hook may hold them. A start may therefore wait for a lock, bounded; it is ended at any moment by SIGTERM (a task that
is stopped) and leaves nothing locked then.

A hookscript that the VM had before is run, too (``vmguard enable`` wrote it down in /etc/pve/vmguard.cfg): in the same
process, behind ours, so that it never works on disks that another host has.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the C half of signal, which would import enum
import os
import sys

from vmguard import faults
from vmguard.core import PROXMOX
from vmguard.hook import entry, operations
from vmguard.protocol import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmguard.hook.vm_to_claim import Subject

CONFIG_DIR = "/etc/pve"
#: lines ``VMID VOLUME PATH``: the hookscripts that VMs had before
CHAINED = "vmguard.cfg"
INFORM_TIMEOUT = 5.0

_OPERATION = {"post-start": "started", "post-stop": "ended"}


def main(argv: list[str]) -> int:
    """The hook's exit status; heeded by Proxmox at pre-start alone."""
    faults.point("start")
    vmid, phase = (os.fsdecode(word) for word in (*argv[1:3], "", "")[:2])
    row = operations.row(phase, operations.PROXMOX)
    status = entry.serve(row, lambda: _claim(vmid), lambda: _inform(vmid, _OPERATION[phase]))
    return status or _run_chained(vmid, phase)


def config_dir() -> str:
    return os.environ.get("VMGUARD_PVE_DIR", CONFIG_DIR)


def _claim(vmid: str) -> None:
    from vmguard.adapters.proxmox.host import node_name, read_vm
    from vmguard.adapters.proxmox.storage_mounted import Ground
    from vmguard.hook.vm_to_claim import Subject

    source = os.environ.get("PVE_MIGRATED_FROM", "")  # present, but empty, at every start that is no migration
    vm = read_vm(config_dir(), vmid, node_name(), source)
    subject = Subject(PROXMOX, vm.domain, Ground(vm), lambda text: entry.say(f"vmguard: {text}"), source)
    _end_at_once(subject)
    entry.claim_all(subject, f"{vm.domain.name} ({vmid})")


def _inform(vmid: str, operation: str) -> None:
    """A word to the daemon, which looks for itself. Any trouble here is the daemon's to overcome.

    At the end of a VM nobody waits for the answer: the daemon knows of it by QEMU's pidfd, and is busy with just that.
    """
    connection = wire.connect(entry.socket_path(), INFORM_TIMEOUT)
    connection.send({"op": operation, "hypervisor": PROXMOX, "name": vmid, "uuid": vmid})
    if operation == "started":
        connection.answer()


def _end_at_once(subject: Subject) -> None:
    """A task that is stopped gets SIGTERM: end the claim's child with us, whatever it is waiting for."""

    def end(number: int, entry: object) -> None:
        if subject.child > 0:
            os.kill(subject.child, 9)
        os._exit(128 + number)

    for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP):
        _signal.signal(number, end)


def _run_chained(vmid: str, phase: str) -> int:
    """Become the hookscript that the VM had before; only returns when there is none, or it cannot be run."""
    path = _chained(vmid)
    if not path:
        return 0
    try:
        os.execv(path, [path, vmid, phase])
    except OSError as problem:
        entry.explain(f"the VM's own hookscript {path!r} cannot be run: {problem.strerror}", "see: vmguard audit")
    return 1


def _chained(vmid: str) -> str:
    try:
        with open(os.path.join(config_dir(), CHAINED), encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                words = line.rstrip("\n").split(" ", 2)
                if len(words) == 3 and words[0] == vmid:
                    return words[2]
    except FileNotFoundError:
        return ""
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv))
