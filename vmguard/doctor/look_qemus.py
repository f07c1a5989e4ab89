"""Looks at the running QEMUs: whose each is by what can be believed, and why one is not. Nothing here touches a share.

Arguments are read in children with a deadline, and only narrow things down, as everywhere: what makes a process a VM's
is said in adapters/hypervisors.py.
"""

from __future__ import annotations

import os

from vmguard.adapters import hypervisors
from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.linux import may_block, proc, roots_file, standing
from vmguard.adapters.linux.proc import CommandLine
from vmguard.core.sources.process_arguments import Kind, Likelihood, identity, kind_of, likelihood
from vmguard.doctor.facts import DisbelievedFacts, QemuFacts

#: first and last byte of QEMU's own image locks (block/file-posix.c)
_QEMU_FIRST_BYTE = 100
_QEMU_LAST_BYTE = 299
#: for the arguments of all QEMUs: such a read may hang
_ARGUMENTS_TIMEOUT_S = 10.0
#: processes that look like QEMU whose arguments are read: any user can start thousands
_MOST_READ = 2048


def look_qemus(run_dirs: RunDirs) -> tuple[list[QemuFacts], list[DisbelievedFacts]]:
    """Return every QEMU of this host that has an image open for writing, and what only looks like a VM's."""
    looks = {pid: likelihood(proc.program(pid), proc.name(pid)) for pid in proc.pids()}
    may_be = [pid for pid, how in looks.items() if how is not Likelihood.NONE]
    found = sorted(may_be, key=lambda pid: (-looks[pid], not standing.is_roots(pid)))[:_MOST_READ]
    lines = may_block.cmdlines_within(_ARGUMENTS_TIMEOUT_S, found)
    qemus, doubted = [], [*_pid_files(run_dirs.libvirt), *_pid_files(run_dirs.proxmox)]
    told = {one.pid for one in doubted}
    for pid in found:
        line = CommandLine(pid, proc.started(pid), proc.program(pid), lines[pid])
        if kind_of(line.program, line.arguments) is not Kind.QEMU:
            continue
        files = [file for file in proc.open_files(pid) if file.info.writable and not file.info.appends]
        about = identity(line.arguments)
        name = about.name or about.vmid or about.uuid or "?"
        if files:
            ranges = [start for file in files for _, start, _ in file.locks]
            locks = any(_QEMU_FIRST_BYTE <= start <= _QEMU_LAST_BYTE for start in ranges)
            manager = hypervisors.manager_of(run_dirs, line)
            qemus.append(QemuFacts(pid, name, manager.has_hook and manager.takes_image_locks, locks))
        who = standing.of(pid)
        why = hypervisors.why_nobodys(run_dirs, line, who) if who is not None else ""
        if who is not None and why and pid not in told:
            doubted.append(DisbelievedFacts(pid, who.owner, line.program, name, why))
    return qemus, doubted


def _pid_files(folder: str) -> list[DisbelievedFacts]:
    """Return the pid files of a hypervisor's folder that are not believed, with the processes in them."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".pid"))
    except OSError:
        return []
    found = []
    for name in names:
        path = os.path.join(folder, name)
        why = roots_file.why_not(path)
        if why:
            pid = _number_in(path)
            who = standing.of(pid) if pid else None
            owner, program = (who.owner, proc.program(pid)) if who is not None else ("", "")
            found.append(DisbelievedFacts(pid if who is not None else 0, owner, program, name[:-4], why))
    return found


def _number_in(path: str) -> int:
    """Return the number in a pid file of anybody's; 0 if there is none. Nothing but a regular file is opened."""
    from vmguard.adapters.linux.regular_file import open_regular

    try:
        fd = open_regular(path, os.O_RDONLY)
    except OSError:
        return 0
    try:
        text = os.read(fd, 32).strip()
    except OSError:
        return 0
    finally:
        os.close(fd)
    return int(text) if text.isdigit() and len(text) < 10 else 0
