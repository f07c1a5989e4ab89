"""The processes of a VM on Proxmox, by its files in /run and by /proc; nothing here can hang.

Beside host.py because the hook, on its hot path, reads that one and needs nothing of this. QEMU is not the only writer:
swtpm is the second, and the qemu-storage-daemon that gives it its state is the third.
"""

from __future__ import annotations

import os

from vmguard.adapters.linux import pid_file, proc, standing
from vmguard.adapters.linux.proc import CommandLine
from vmguard.core.sources.process_arguments import Kind, kind_of, served
from vmguard.core.sources.pve_config import is_vmid

#: what Proxmox calls the process that starts a VM (pve-common RESTEnvironment.pm, fork_worker). Perl sets comm with it
#: (perlvar, $0), as far as its 15 letters go
_WORKER = "task UPID:"


def path_of(run_dir: str, vmid: str) -> str:
    """Return the path of a VM's pid file; empty for what is no VM."""
    return os.path.join(run_dir, f"{vmid}.pid") if is_vmid(vmid) else ""


def believes_running(run_dir: str, vmid: str) -> bool:
    """Return whether the pid file is still there: it goes when Proxmox has cleaned up after a VM (vm_stop_cleanup)."""
    return is_vmid(vmid) and os.path.exists(path_of(run_dir, vmid))


def is_qemu_of(words: list[str], vmid: str, run_dir: str) -> bool:
    """Return whether these are the arguments of a VM's QEMU, as Proxmox tells it: this very -pidfile (Helpers.pm)."""
    if not is_vmid(vmid):
        return False
    wanted = (f"{run_dir}/{vmid}.pid", f"/var{run_dir}/{vmid}.pid")  # Proxmox writes /var/run for /run
    return any(word == "-pidfile" and after in wanted for word, after in zip(words, words[1:], strict=False))


def helper_pids(run_dir: str, vmid: str) -> list[tuple[int, Kind]]:
    """Return the processes in the pid files of a VM's swtpm and qemu-storage-daemon (start_swtpm; QSD.pm)."""
    if not is_vmid(vmid):
        return []
    files = ((f"{vmid}.swtpm.pid", Kind.SWTPM), (f"qsd-{vmid}.pid", Kind.STORAGE_DAEMON))
    found = []
    for name, kind in files:
        written = pid_file.read(os.path.join(run_dir, name))
        helper = pid_file.named_by(written) if written is not None else None
        if helper is not None and (helper.scope is None or helper.scope.vmid == vmid):
            found.append((helper.pid, kind))
    return found


def is_helper_of(line: CommandLine, kind: Kind, vmid: str) -> bool:
    """Return whether a process is that helper of a VM: a pid file may be old, and its number another program's."""
    return kind_of(line.program, line.arguments) is kind and vmid in served(line.arguments).vmids


def starter_of(pid: int) -> int:
    """Return the process that runs the start whose hook ``pid`` is: the nearest ancestor that is a task's worker; or 0.

    A start is over when its worker has ended. Any other ancestor proves nothing: a script of the admin's may call the
    hook and end long before QEMU comes. A worker is root's, and so is whatever stands between it and its hook: any user
    can call a process of his like a worker.
    """
    for ancestor in standing.ancestors(pid):
        if not standing.is_roots(ancestor):
            return 0
        if proc.name(ancestor).startswith(_WORKER):
            return ancestor
    return 0
