"""Every check of the doctor, and why it matters: for `vmguard doctor`, its JSON, and the manual page."""

from __future__ import annotations

CHECKS: dict[str, str] = {
    # -- mounts, as the kernel describes them
    "mount.nfs": "vmguard's locks protect disks on NFSv4; on this host's own file systems they only keep two VMs "
    "of this host apart",
    "mount.version": "NFSv4.1 and 4.2 have sessions, reclaim that is declared complete, and a server that tells a "
    "client which of its locks it has dropped; 4.0 has none of these; with NFSv3 a lost lock is never noticed and "
    "a dead host's lock never ends",
    "mount.hard": "a soft mount turns an outage into I/O errors inside the guests and lets writes be lost without "
    "a word; a hard one waits, and vmguard decides what waits with it",
    "mount.local-locks": "with nolock or local_lock the kernel keeps locks on this host alone: every other host "
    "gets the same lock, too",
    "mount.transport": "vmguard's deadlines rest on TCP, where the server's lease bounds how long a dead "
    "connection goes unnoticed",
    "mount.writable": "the disks of running VMs are written to, and so are the owner records that tell other hosts who "
    "has them",
    "mount.lease": "the lease is the unit of all times: how long the server may be silent before VMs are frozen, "
    "and how long another host must wait before it may take over",
    "mount.reconnect": "after a storage reboot locks are kept only if the client comes back within the server's grace "
    "period; how soon it notices depends on its TCP timeouts, not on timeo",
    "mount.pnfs": "with pNFS a client writes to data servers that need not know of a lost lock: kernels before "
    "6.12.117 wrote on (flexfiles)",
    "mount.delegations": "a write delegation lets the client keep locks to itself, unseen by the server until another "
    "host opens the file; if this host is dead, that open waits for a whole lease. vmguard opens disks with O_DIRECT, "
    "which asks for none, and has the client give back what an earlier open got (a copy, qemu-img create)",
    "mount.early": "kernels before 6.1.159, 6.12.59 and 6.18 may skip lease renewals on mounts made in the first five "
    "minutes after boot: an idle client loses its locks. vmguard's own requests renew the lease while it "
    "guards a VM there",
    "mount.two-ways": "one share mounted twice is two file systems to this kernel: vmguard, QEMU and an admin may "
    "each have a different file in mind that is one and the same",
    "mount.other": "FUSE, SMB, Ceph, Gluster, 9p, GFS2, OCFS2 and the like are shared by hosts, but whether a lock "
    "reaches them, and whether it is still there, cannot be proven: two hosts may both get it",
    "mount.absent": "what lies on the bare folder of a share that is not mounted is an old copy, or nothing: a VM "
    "started from it writes to the wrong disk",
    # -- the storage itself
    "storage.answers": "nothing can be said of a storage that does not answer, and no VM on it can start",
    "storage.lock": "everything vmguard promises is built on this: an exclusive lock that the server knows, that "
    "conflicts, that can be freed in part, and that the server confirms",
    "storage.space": "on a full share guests stand still or get I/O errors, and no owner record can be written, whose "
    "epoch is the fencing token",
    "storage.probe": "a lost lock is found by a request through the locked file: SEEK, or READ where the server has no "
    "SEEK; an answer that this kernel can give by itself is never believed",
    "storage.root": "where root is squashed vmguard opens disks and writes owner records as the user of QEMU; "
    "what only root may read stays unguarded",
    "storage.foreign-writers": "locks are advisory: a host without vmguard writes to a disk whatever others "
    "have locked",
    "storage.modes": "whoever may read an image can lock it against every start, and whoever may write to it or to its "
    "folder can put another file, or a link, in its place: 0600 or 0660 for images, 0750 for their folders, owned by "
    "root or by the user of QEMU. Whoever may write to .vmguard can forge the claim of another host, for which a VM is "
    "killed at its next doubt",
    "storage.twins": "the server tells hosts apart by their client id, on Linux the host name: a second host with "
    "the same one takes the locks of the first the moment it mounts the share, silently",
    # -- what a server says of itself (vmguard storage doctor)
    "server.answers": "what only the server knows (who has come back, who holds a lock, what it would forget) is "
    "guessed while it cannot be asked; the guard itself does not depend on it",
    "server.grace": "the grace period must be as long as the lease, or a rebooted server can give a lock to another "
    "host before the old one is frozen, and long enough for every client to find the server again",
    "server.nfs3": "a server of NFSv3 runs lockd, whose own grace period (50 s unless it is set) holds up new NFSv4 "
    "locks, too, and never ends early",
    "server.version": "NFSv4.0 has no sessions: a reboot that was missed, and a stolen identity, are noticed late or "
    "never",
    "server.tracker": "whom the server does not write down while it runs, it does not know after a reboot",
    "server.memory": "a server that forgets its clients lets none of them reclaim: every VM with a disk there is "
    "fenced at its next reboot",
    "server.on-record": "only a host that is on the server's record may reclaim its locks after a reboot",
    "server.dead-records": "the grace period ends early once everybody on record has reclaimed: hosts that never come "
    "back prolong it to its full length",
    "server.delegations": "a write delegation lets one client keep a lock to itself, unseen by the server",
    "server.partner": "after a fail-over a client reclaims only from a server of the same scope (on Linux the host "
    "name under which nfsd was started), and finds its files only by the same fsid",
    "server.sync": "with async the server says that data is on disk before it is",
    # -- this host
    "host.recover-lost-locks": "with this kernel parameter a client takes a lost lock again behind everybody's "
    "back and writes on, although another host may have written in between",
    "host.name": "without an id of its own the NFS client is known by its host name",
    "host.identity": "a host name can be cloned, changed or shared; an id of its own that survives reboots cannot "
    "be taken by another host",
    "host.clock": "locking does not need it: leases are durations, not times of day. Kerberos does (5 minutes), and so "
    "does whoever compares the logs of two hosts",
    "host.nfs-server": "a host that runs VMs on what it exports itself takes locks that know no grace period: until "
    "the server's is over, a start here would take the disks of VMs on other hosts, so it waits",
    "host.watchdog": "it is the last resort where a VM that lost its lock cannot be proven dead",
    "host.ptrace": "the daemon moves each lock onto the description through which QEMU writes, so that a write fails "
    "once the lock is lost; for that it copies QEMU's descriptors, which needs the right to trace it",
    "host.selinux": "what SELinux forbids QEMU or the hook fails at the start of a VM, in words that do not name it",
    # -- the guard
    "guard.daemon": "it holds the locks, watches the leases and answers the hooks; without it no guarded VM starts and "
    "nobody freezes one",
    "guard.armed": "a watchdog that only reports lets two hosts write to one disk",
    "guard.descriptors": "each guarded VM takes some of the daemon's file descriptors for as long as it runs",
    "guard.boot": "a daemon that does not come up with the host leaves all its VMs unable to start",
    "guard.units": "a unit that cannot start is missed by nobody until its metrics, or a VM, are",
    "guard.config": "a wrong configuration is not taken: the last good one, or none at the next start, is in force",
    "guard.vms": "a VM without its locks can be started on another host at any moment",
    "guard.notify": "whoever shall be told that a VM is frozen or was killed learns of it only if messages leave this "
    "host: a target whose secret cannot be read, or whose last message was not taken, is told nothing",
    "libvirt.hook": "libvirt silently goes past a hook that it has not seen or may not execute, and starts VMs "
    "unguarded",
    "libvirt.version": "some versions have traps that an admin should know of",
    "libvirt.windows": "QEMU and libvirt lock single bytes of each disk on the same host; if vmguard keeps those, "
    "no VM starts",
    "libvirt.apparmor": "libvirt's hook is confined as its daemon is, which may run the system's own programs only",
    "qemu.locking": "a QEMU with image locks of its own keeps copies of its descriptors from being held for long; one "
    "without (Proxmox) is shielded all the time",
    "qemu.believed": "a process is a VM's by what root and the kernel say of it, never by its own words: any user can "
    "start one that calls itself a VM's QEMU. One that is not believed is not guarded, and holds nothing up",
    "proxmox.hook": "Proxmox asks only the hookscript that a VM's own configuration names: a VM without it starts "
    "unguarded",
    "proxmox.version": "some versions have traps that an admin should know of",
    # -- the disks of one VM
    "disk.paths": "a disk that is reached by several names can be started under one while it is guarded under another; "
    "vmguard goes by device and inode, other tools by name",
    "disk.guardable": "a disk on a block device or behind a network protocol of QEMU's own has no lock that other "
    "hosts see",
}
