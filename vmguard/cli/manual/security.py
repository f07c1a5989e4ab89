"""vmguard-security(7): who is trusted with what, and what somebody who is not can still do."""

from __future__ import annotations

import vmguard
from vmguard.cli.manual import examples
from vmguard.cli.manual.roff import Page

_TRUSTED = {
    "root of this host": "With everything: the daemon, the hooks and the configuration are root's.",
    "The hypervisor's own files": "A process is a VM's QEMU or helper only if a pid file that root has written names "
    "it, with the time at which it started, or if it lies in the VM's own control group, or if such a process has "
    "started it. What a process says of itself, its name and its arguments, only narrows that. Pid files and status "
    "files count only if they and their folder are root's alone. The program may have any name: what a believed pid "
    "file names, or has a VM of KVM's open, is looked at, too. vmguard doctor (qemu.believed) names what only looks "
    "like a VM's process, and why it is not believed.",
    "The user that QEMU runs as": "With the VM that its process belongs to. A guest that has broken out of its QEMU "
    "can end its own VM; it can neither freeze, kill nor unguard another one, nor keep one from starting. On a host "
    "without control groups, guests of one user are told apart by pid file and start time alone.",
    "root of the other hosts of a share": "With the locks that this host takes from the server: NFS has no rights on "
    "locks. A host that is not to be trusted must not mount the share.",
    "The NFS server": "With the promise itself: it must honour its lease and its grace period.",
    "The storage server's administration": "With words, where servers: in vmguard.yaml(5) says how it is asked. What "
    "it prints is read as a stranger's bytes, bounded and escaped; it changes for how long Proxmox's hook waits, and "
    "never decides about a running VM. The account that asks needs no right to change anything (a forced command); "
    "another account releases a dead host's state, on an admin's order alone.",
    "Who may write to a share": "With nothing but the files there. A record, a link or an image that somebody puts "
    "there can have a start refused; it cannot make root open a device, lock or write a file elsewhere, or run "
    "anything.",
    "Members of group vmguard": "With reading what this host guards, and what happened (daemon.read_group; the user of "
    "the metrics is one). They ask over a socket of their own, on which nothing can be changed and no descriptor is "
    "passed; all of them together get a fifth of the daemon's time at most.",
    "Ordinary users of this host": "With nothing. The daemon's socket is root's; a user's own QEMU is reported and not "
    "taken for a VM of root's.",
}
_REMAINS = {
    "A start can be held up": "Whoever may read an image can lock a byte of it for reading, and every start is refused "
    "while he does. The refusal names the process if it runs on this host. Images: mode 0600 or 0660; their folders "
    "0750 (storage.modes of vmguard doctor).",
    "A file can be put in a disk's place": "by whoever may write to its folder. The next start notices a disk that "
    "replaced one whose claim still stands, and refuses.",
    "A later claim can be forged": "in the owner record of a disk, by whoever may write to .vmguard or to the folder "
    "that it lies in, and so could remove the disk as well: a VM that runs is killed for it after the next doubt about "
    "its lock, and one whose record is gone stays frozen then. Only root and the user of QEMU should own these folders "
    "(storage.modes of vmguard doctor); in one with the sticky bit make .vmguard as root before anybody else does.",
    "A guest that runs can name a file of the host": "in the header of its image. A start of it is refused then. A VM "
    "that runs already is not stopped: the file gets no lock and no record, and the log says so. On NFSv4 shares "
    "whatever a VM has open is locked: other hosts could open it, too.",
    "Locks can be taken by another host": "that may mount the share. Every start of the VM is refused then, and a VM "
    "that runs meets a conflict when it opens a disk anew.",
    "The lease can be ended": "by a host with the same NFS client identity, or by whoever administers the server. "
    "The watchdog sees it (mount.identity-stolen) and ends the VMs whose locks are lost.",
    "Work can be made": "by a user who starts thousands of processes: they are looked at in turns, rarely, and each "
    "for a bounded time. Starts and the watchdog's deadlines do not wait for that.",
    "A vmguard that pip has installed": "believes PYTHONPATH and the current folder of whoever starts it, as every "
    "such program does. Those of the packages do not.",
}


def security_7(date: str) -> str:
    """Return vmguard-security(7). ``date``: of the manual."""
    page = Page("vmguard-security", 7, vmguard.__version__, date, "who is trusted with what by vmguard")
    page.section("description")
    page.paragraph(
        "vmguard decides whether VMs start, run on or are killed, as root, on hosts that several people share. This "
        "page says whose word counts for that, and what somebody else can still do."
    )
    page.section("trust")
    for who, what in _TRUSTED.items():
        page.tagged(who, what)
    page.section("what an attacker can still do")
    for what, more in _REMAINS.items():
        page.tagged(what, more)
    page.section("what leaves a host")
    page.paragraph(
        "Owner records beside the disks: host name, machine id, boot id, the VM's name and uuid, times. vmguard report "
        "makes an archive for a person to look through and pass on: secrets in names of images and in settings are "
        "cut out of it, names of VMs, hosts and paths are not. Nothing else is sent anywhere."
    )
    page.section("reporting a hole")
    page.paragraph(
        "Tell the maintainer of the package in private (the address stands in it), with the version, what somebody "
        "must be able to do beforehand, and what he can do afterwards. Not in a public issue."
    )
    examples.add_to(page, examples.SECURITY)
    page.section("see also")
    page.paragraph("vmguard(8), vmguard.yaml(5), vmguard-hooks(7)")
    return page.text()
