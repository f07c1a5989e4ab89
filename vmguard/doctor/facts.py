"""What the doctor looked at. None means: it could not be seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
    #: the layout driver's name, or "not configured"
    pnfs: str = "not configured"
    #: delegations that were given back so far: a sign that the server hands them out
    delegations: int = 0
    #: how often the client told the server that it has reclaimed all it had
    reclaim_complete: int = 0

    def option(self, name: str) -> str:
        """The value of ``name=value``; empty when it is not there."""
        return next((word[len(name) + 1 :] for word in self.options if word.startswith(name + "=")), "")


@dataclass(frozen=True)
class ScratchFacts:
    """What happened to a scratch file on the share. A step that was not reached is None."""

    #: seconds after which the storage was given up; 0 when it answered
    hung: float = 0.0
    #: why nothing could be tried, as (errno's name, sentence)
    error: tuple[str, str] = ("", "")
    #: whom root was made into: "" for root itself, else how the files could be made at all ("libvirt-qemu", or
    #: "nobody")
    squashed: str = ""
    locked: bool | None = None
    #: a second description was refused the same lock
    conflict: bool | None = None
    #: after a part was freed, exactly that part could be locked by another
    sub_range: bool | None = None
    #: requests LOCK and LOCKU that went to the server meanwhile
    lock_requests: int | None = None
    #: the server's own answer through the locked description: "" when it honours the lock, else an errno's name
    answer: str | None = None
    #: whether a lock on a file opened without O_DIRECT stayed in the client
    delegated: bool | None = None


@dataclass(frozen=True)
class RecordFacts:
    """One claim in an owner record on the share. Times are ISO, UTC."""

    host: str
    machine: str
    boot: str
    claimed: str


@dataclass(frozen=True)
class ShareFacts:
    """What lies on a share: claims of all hosts, and images that somebody writes to without a lock."""

    records: tuple[RecordFacts, ...] = ()
    unlocked_writes: tuple[str, ...] = ()
    #: why it could not be looked through
    problem: str = ""


@dataclass(frozen=True)
class IdentityFacts:
    """Who this host is to an NFS server, now and after the next boot."""

    name: str
    machine: str = ""
    boot: str = ""
    #: UTC, ISO: when this boot began
    booted: str = ""
    #: the unique id in force (sysfs or module parameter); None while the nfs module is not loaded
    unique_id: str | None = None
    #: what modprobe.d or the kernel command line says, and the file that says so
    persistent: str = ""
    persistent_in: str = ""
    #: fingerprint of this machine, and that of the machine on which the id was made
    hardware: str = ""
    made_on: str = ""


@dataclass(frozen=True)
class HostFacts:
    identity: IdentityFacts
    #: seconds since boot
    uptime: float = 0.0
    #: uname -r and uname -v
    release: str = ""
    kernel: str = ""
    clock_synchronised: bool | None = None
    recover_lost_locks: bool | None = None
    #: "" when host_fence is none, else why it could not fire, or "ready"
    watchdog: str = ""


@dataclass(frozen=True)
class GuardFacts:
    """The daemon, its configuration, and what runs."""

    #: why it does not answer; "" when it does
    daemon: str = ""
    version: str = ""
    own_version: str = ""
    disarmed: dict[str, Any] | None = None
    #: settings with which nothing is done to a VM, as "watch.on_at_risk: ignore"
    lame: tuple[str, ...] = ()
    #: whether systemd starts it at boot; None without systemd
    enabled: bool | None = None
    config_problems: tuple[str, ...] = ()
    #: names of VMs that run without their locks
    unguarded: tuple[str, ...] = ()
    #: VMs whose locks are weaker than they should be, with the reason
    weaker: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class LibvirtFacts:
    version: tuple[int, ...] | None = None
    #: our hooks, each with whether it may be executed and whether what it names is there
    hooks: tuple[tuple[str, bool, str], ...] = ()
    #: "called", "not-called", "unknown", and libvirt's words; "" when it was not tried
    proof: str = ""
    proof_words: str = ""
    #: whether one of its daemons runs
    running: bool = False
    #: windows that are off although somebody on this host needs those bytes: (setting, who)
    closed_windows: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ProxmoxFacts:
    version: tuple[int, ...] | None = None
    #: what is wrong with the hookscript itself; "" when nothing is
    script_problem: str = ""
    #: (VMID, name) of VMs of this node without it, and how many have it
    unhooked: tuple[tuple[str, str], ...] = ()
    hooked: int = 0
    #: why the VMs could not be read
    problem: str = ""


@dataclass(frozen=True)
class QemuFacts:
    """One QEMU of this host."""

    pid: int
    name: str
    libvirt: bool
    image_locks: bool


@dataclass(frozen=True)
class DiskFacts:
    """One file of the VM that was asked for."""

    path: str
    #: where it really lies
    real: str = ""
    links: int = 1
    problem: str = ""


@dataclass(frozen=True)
class VmFacts:
    name: str
    disks: tuple[DiskFacts, ...] = ()
    #: (what, why) of storage that no lock covers
    unguarded: tuple[tuple[str, str], ...] = field(default=())
