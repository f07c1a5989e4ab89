"""Proxmox's hookscript, behind the shell shim hooks/vmguard-hookscript: ``proxmox.py VMID PHASE``.

What each phase does is in vmguard/hook/operations.py. What the hook prints on stderr appears in the task log. Proxmox
waits for the hook without a timeout, but it also waits for the end of both pipes: nothing that outlives the hook may
hold them. A start may therefore wait for a lock, bounded; SIGTERM (a task that is stopped) ends it at any moment and
leaves nothing locked.

A hookscript that the VM had before is run, too (``vmguard enable`` wrote it down in /etc/pve/vmguard.cfg): in the same
process, after ours, so that it never works on disks that another host has.
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
    from vmguard.hook.vm_to_claim import VmToClaim

CONFIG_DIR = "/etc/pve"
#: lines ``VMID VOLUME PATH``: the hookscripts that VMs had before
CHAINED = "vmguard.cfg"
INFORM_TIMEOUT_S = 5.0

#: phase -> request to the daemon
_REQUESTS = {"post-start": "started", "post-stop": "ended"}


def main(argv: list[str]) -> int:
    """Serve one phase; return the exit status, which Proxmox heeds at pre-start alone."""
    faults.point("start")
    vmid, phase = (os.fsdecode(word) for word in (*argv[1:3], "", "")[:2])
    row = operations.row(phase, operations.PROXMOX)
    status = entry.serve(row, lambda: _claim(vmid), lambda: _inform(vmid, _REQUESTS[phase]))
    return status or _run_chained(vmid, phase)


def config_dir() -> str:
    """Return the folder of Proxmox's configuration."""
    return os.environ.get("VMGUARD_PVE_DIR", CONFIG_DIR)


def _claim(vmid: str) -> None:
    from vmguard.adapters.proxmox.host import node_name, read_vm
    from vmguard.adapters.proxmox.storage_mounted import VmStorages
    from vmguard.hook.vm_to_claim import VmToClaim

    source = os.environ.get("PVE_MIGRATED_FROM", "")  # present, but empty, at every start that is no migration
    vm = read_vm(config_dir(), vmid, node_name(), source)
    say = lambda text: entry.say(f"vmguard: {text}")  # noqa: E731
    wanted = VmToClaim(PROXMOX, vm.domain, VmStorages(vm), say, source)
    if not source and vm.saved_image is not None:
        wanted.saved_image = vm.saved_image
        wanted.start_anew = f"qm set {vmid} --delete vmstate && qm start {vmid}"
    wanted.unique_id = False
    _end_with_signal(wanted)
    entry.claim_all(wanted, f"{vm.domain.name} ({vmid})")


def _inform(vmid: str, operation: str) -> None:
    """Send the daemon a hint, which it verifies itself. It does not depend on hints: a failure here does no harm.

    When a VM has ended, there is no answer to wait for: the daemon knows of it by QEMU's pidfd, and is busy with that.
    """
    connection = wire.connect(entry.socket_path(), INFORM_TIMEOUT_S)
    connection.send({"op": operation, "hypervisor": PROXMOX, "name": vmid, "uuid": vmid})
    if operation == "started":
        connection.answer()


def _end_with_signal(vm: VmToClaim) -> None:
    """Let a signal end the claim's child with us, whatever it is waiting for: a task that is stopped gets SIGTERM."""

    def end(number: int, frame: object) -> None:
        if vm.child > 0:
            os.kill(vm.child, 9)
        os._exit(128 + number)

    for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP):
        _signal.signal(number, end)


def _run_chained(vmid: str, phase: str) -> int:
    """Become the hookscript that the VM had before. Return an exit status when there is none, or it cannot be run."""
    path = _chained(vmid)
    if not path:
        return 0
    try:
        os.execv(path, [path, vmid, phase])
    except OSError as problem:
        entry.explain(f"the VM's own hookscript {path!r} cannot be run: {problem.strerror}", "see: vmguard audit")
    return 1


def _chained(vmid: str) -> str:
    """Return the path of the hookscript that the VM had before, empty if it had none."""
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
