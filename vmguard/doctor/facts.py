"""What the doctor looked at. None means: not seen.

Facts that are gathered in a child come back as JSON: ``dataclasses.asdict`` there, ``from_json`` here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vmguard.query.answers import DescriptorsAnswer, DisarmedAnswer


@dataclass(frozen=True)
class MountFacts:
    """One NFS mount, as the kernel describes it without asking the server."""

    point: str
    source: str
    version: str
    options: tuple[str, ...] = ()
    device: int = 0
    #: seconds; 0 where the mount has none (NFSv3)
    lease: float = 0.0
    #: seconds since it was mounted
    age: float = 0.0
    #: name of the layout driver, or "not configured"
    pnfs: str = "not configured"
    #: delegations returned so far: not 0 if the server hands them out
    delegations: int = 0
    #: RECLAIM_COMPLETE requests so far
    reclaim_complete: int = 0
    #: the server's id of the file system, as /proc/fs/nfsfs/volumes has it; empty where it is not told
    fsid: str = ""
    #: the server's grace period in seconds, by its own word; None: it was not asked
    grace: float | None = None

    def option(self, name: str) -> str:
        """Return the value of ``name=value``; empty when there is none."""
        return next((word[len(name) + 1 :] for word in self.options if word.startswith(name + "=")), "")

    @property
    def server(self) -> str:
        """The server's name or address, an IPv6 address without its brackets: ``nas:/vm``, ``[fd00::5]:/vm``."""
        server = self.source.partition(":/")[0]
        return server[1:-1] if server.startswith("[") and server.endswith("]") else server

    @property
    def export(self) -> str:
        """The exported path; empty if the source names none."""
        _, found, path = self.source.partition(":/")
        return found[1:] + path


@dataclass(frozen=True)
class OtherMountFacts:
    """A mount that other hosts may share, and why no lock on it is proven to reach them."""

    point: str
    why: str


@dataclass(frozen=True)
class AbsentShareFacts:
    """A share that is configured, and not mounted."""

    point: str
    source: str
    #: the file that configures it
    file: str


@dataclass(frozen=True)
class ScratchFacts:
    """What happened to a scratch file on the share. A step that was not reached is None."""

    #: timeout in seconds when the storage did not answer in time; 0 when it did
    hung: float = 0.0
    #: why nothing could be tried, as (name of the errno, sentence)
    error: tuple[str, str] = ("", "")
    #: the user that the server maps root to, or as which the file was made ("nobody", "libvirt-qemu"); "" for root
    squashed: str = ""
    locked: bool | None = None
    #: a second open file description was refused the same lock
    conflict: bool | None = None
    #: after a part was freed, exactly that part could be locked by another description
    sub_range: bool | None = None
    #: LOCK and LOCKU requests sent to the server meanwhile
    lock_requests: int | None = None
    #: the server's answer through the locked description: "" when it honours the lock, else the name of an errno
    answer: str | None = None
    #: how locks are probed here: ``SEEK``, ``READ (the server has no SEEK)``; empty: this was not reached
    probes: str = ""
    #: why the server could not be asked through the locked description, empty if it could
    not_probed: str = ""
    #: whether a lock on a file opened without O_DIRECT stayed in the client
    delegated: bool | None = None
    #: whether such a lock could be brought to the server: "" when it could, else why not; None: not tried
    stays: str | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ScratchFacts:
        name, sentence = value["error"]
        return cls(**{**value, "error": (str(name), str(sentence))})


@dataclass(frozen=True)
class RecordFacts:
    """One claim in an owner record on the share. Times are ISO, UTC."""

    host: str
    machine: str
    boot: str
    claimed: str


@dataclass(frozen=True)
class ModeFacts:
    """Images that others may read, images and folders of images that others may write, and those of ordinary users."""

    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    #: with the owner: ``/srv/vm/a.qcow2 (user 1000)``
    owned: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShareFacts:
    """What lies on a share: the claims of all hosts, images that are written to without a lock, and who may do what."""

    records: tuple[RecordFacts, ...] = ()
    unlocked_writes: tuple[str, ...] = ()
    modes: ModeFacts = ModeFacts()
    #: the free part of its space and of its inodes, from 0 to 1; 1 where the server does not tell
    free_space: float = 1.0
    free_inodes: float = 1.0
    #: why it could not be looked through
    problem: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ShareFacts:
        modes = ModeFacts(**{name: tuple(paths) for name, paths in value["modes"].items()})
        records = tuple(RecordFacts(**record) for record in value["records"])
        free = (float(value["free_space"]), float(value["free_inodes"]))
        return cls(records, tuple(value["unlocked_writes"]), modes, *free)


@dataclass(frozen=True)
class IdentityFacts:
    """This host's identity to an NFS server, now and after the next boot."""

    name: str
    machine: str = ""
    boot: str = ""
    #: when this boot began; UTC, ISO
    booted: str = ""
    #: the unique id in force (sysfs or module parameter); None while the nfs module is not loaded
    unique_id: str | None = None
    #: the id that modprobe.d or the kernel command line sets, and the file that sets it
    persistent: str = ""
    persistent_in: str = ""
    #: fingerprint of this machine, and of the machine on which the id was made
    hardware: str = ""
    made_on: str = ""


@dataclass(frozen=True)
class HostFacts:
    """This host: kernel, clock, identity, watchdog device."""

    identity: IdentityFacts
    #: seconds since boot
    uptime: float = 0.0
    #: uname -r and uname -v
    release: str = ""
    kernel: str = ""
    clock_synchronised: bool | None = None
    recover_lost_locks: bool | None = None
    #: what its own NFS server exports, and whether that is in its grace period
    exports: tuple[str, ...] = ()
    in_grace: bool = False
    #: "" when host_fence is none, else why it could not fire, or "ready"
    watchdog: str = ""


@dataclass(frozen=True)
class ConfinementFacts:
    """What the kernel's access controls forbid."""

    #: kernel.yama.ptrace_scope; -1 without Yama
    ptrace_scope: int = -1
    #: booleans of SELinux's policy that decide about our work; None where SELinux does not enforce
    booleans: tuple[tuple[str, bool], ...] | None = None
    #: daemons of libvirt whose profile AppArmor enforces
    profiles: tuple[str, ...] = ()
    #: interpreters of our hook that those do not let it run
    barred: tuple[str, ...] = ()

    def boolean(self, name: str) -> bool | None:
        """Return a boolean of SELinux's; None if the policy has none of that name, or does not count."""
        return dict(self.booleans or ()).get(name)


@dataclass(frozen=True)
class UnitFacts:
    """One of vmguard's units of systemd."""

    name: str
    #: why it is not running although it should be, in systemd's word; empty when it is, or should not
    failed: str = ""
    #: folders that it needs and that are not there; empty while nobody has enabled it
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class GuardFacts:
    """The daemon, its configuration, and the VMs that run."""

    #: why the daemon does not answer; "" when it does
    daemon: str = ""
    version: str = ""
    own_version: str = ""
    disarmed: DisarmedAnswer | None = None
    descriptors: DescriptorsAnswer | None = None
    #: settings with which nothing is done to a VM, as "watch.on_at_risk: ignore"
    lame: tuple[str, ...] = ()
    #: whether systemd starts it at boot; None without systemd
    enabled: bool | None = None
    #: None without systemd
    units: tuple[UnitFacts, ...] | None = None
    config_problems: tuple[str, ...] = ()
    #: names of VMs that run without their locks
    unguarded: tuple[str, ...] = ()
    #: (name, reason) of VMs whose guard is weaker than it should be
    weaker: tuple[tuple[str, str], ...] = ()
    #: targets of notify.targets that get no messages: name, why, and what mends it
    untold: tuple[tuple[str, str, str], ...] = ()
    #: targets of notify.targets
    targets: int = 0
    #: VMs that are frozen, fenced or in conflict: name, how it stands, what to do now
    troubled: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class LibvirtFacts:
    """libvirt and vmguard's hook in it. ``version`` is None where there is no libvirt."""

    version: tuple[int, ...] | None = None
    #: vmguard's hooks: (path, is executable, what it names that is missing)
    hooks: tuple[tuple[str, bool, str], ...] = ()
    #: "called", "not-called" or "unknown", and libvirt's words; "" when it was not tried
    proof: str = ""
    proof_words: str = ""
    #: whether one of libvirt's daemons runs
    running: bool = False
    #: windows that are off although somebody on this host locks those bytes: (setting, reason)
    closed_windows: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ProxmoxFacts:
    """Proxmox VE and the hookscript. ``version`` is None where there is no Proxmox VE."""

    version: tuple[int, ...] | None = None
    #: what is wrong with the hookscript itself; "" when nothing is
    script_problem: str = ""
    #: (VMID, name) of the VMs of this node without the hookscript, and how many have it
    unhooked: tuple[tuple[str, str], ...] = ()
    hooked: int = 0
    #: why the VMs could not be read
    problem: str = ""


@dataclass(frozen=True)
class QemuFacts:
    """One QEMU of this host."""

    pid: int
    name: str
    #: its hypervisor can be believed to have started it, and has QEMU lock its images
    libvirt: bool
    image_locks: bool


@dataclass(frozen=True)
class DisbelievedFacts:
    """A process that looks like a VM's QEMU, or a pid file that should name one, and why that is not believed."""

    #: 0: the pid file names no process that is there
    pid: int
    owner: str
    program: str
    #: of the VM, as the process or the file calls it
    name: str
    why: str


@dataclass(frozen=True)
class DiskFacts:
    """One file of the VM that was asked for."""

    path: str
    #: its path without symbolic links
    real: str = ""
    links: int = 1
    problem: str = ""


@dataclass(frozen=True)
class VmFacts:
    """The VM that was asked for."""

    name: str
    disks: tuple[DiskFacts, ...] = ()
    #: (what, why) of storage that no lock covers
    unguarded: tuple[tuple[str, str], ...] = ()
