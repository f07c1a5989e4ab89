"""The table of settings. Each class below is a section, each field a key: its type, unit, range, default and help.

Everything else is made from this table: the parser, the defaults, the shipped config/vmguard.yaml,
``vmguard config show`` and the manual page. To add a key, add a field, then
``vmguard config example > config/vmguard.yaml``.

A key path is a tuple of words (``("hook", "wait")``). So the section with an entry for each VM
(``vms: {NAME: {...}}``) has just one more word in its paths, whatever characters the name contains.
"""

# ruff: noqa: RUF009 - _setting() and _section() are dataclasses.field() with the metadata of this table

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from vmguard.config.choices import LocalFiles, LogLevel, PolicyAction, SessionVms, Window
from vmguard.config.libvirt import Libvirt
from vmguard.config.migration import Migration
from vmguard.config.notify import Notify, Target
from vmguard.config.owner_record import OwnerRecord
from vmguard.config.proxmox import Proxmox
from vmguard.config.row import section as _section
from vmguard.config.row import setting as _setting
from vmguard.config.servers import Server
from vmguard.config.storage import Storage
from vmguard.config.values import AbsolutePath, Choice, Duration, Kind, Name, YesNo
from vmguard.config.watch import Watch
from vmguard.core.watchdog.policy import OnConflict

KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    section: str
    key: str
    kind: Kind[Any]
    default: Any
    help: str
    #: whether a change takes effect only when the daemon is restarted, not at a reload
    restart: bool

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}"

    @property
    def path(self) -> KeyPath:
        return (self.section, self.key)


@dataclass(frozen=True)
class Origin:
    """Where a value was set."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


_WINDOW = Choice(Window.AUTO, Window.ON, Window.OFF)


@dataclass(frozen=True)
class Hook:
    """What happens before a VM starts."""

    wait: float = _setting(
        Duration(0, 60),
        3.0,
        "How long libvirt's hook waits for a disk that is locked by another host, or for a share below a disk that is "
        "not mounted, before it refuses the start. "
        "While it waits, libvirt answers nobody on this host: keep it short.",
    )
    timeout: float = _setting(
        Duration(1, 600),
        20.0,
        "After this time the hook refuses the start, whatever it is waiting for: a server that does not answer, "
        "or one in the grace period after its reboot. Must be longer than wait.",
    )
    daemon_absent: PolicyAction = _setting(
        Choice(PolicyAction.REFUSE, PolicyAction.ALLOW),
        PolicyAction.REFUSE,
        "What a start does when the vmguard daemon does not answer. allow starts the VM UNGUARDED: another host can "
        "then start it, too, and destroy its disks.",
    )
    session_vms: SessionVms = _setting(
        Choice(SessionVms.LOCAL, SessionVms.ALLOW, SessionVms.REFUSE),
        SessionVms.LOCAL,
        "VMs that an ordinary user runs (qemu:///session). vmguard's daemon belongs to root and cannot guard them. "
        "local starts such a VM if none of its files lies on NFS; allow starts it UNGUARDED wherever they lie; refuse "
        "starts none. A user who may not read this file gets the default.",
    )
    standby: bool = _setting(
        YesNo(),
        True,
        "Whether two processes (about 15 MiB) stand by for the next starts, each of which is ten milliseconds faster "
        "then; more starts at the same moment are served as without it.",
        restart=True,
    )


@dataclass(frozen=True)
class Policy:
    """What happens with storage that cannot be guarded."""

    block_devices: PolicyAction = _setting(
        Choice(PolicyAction.ALLOW, PolicyAction.WARN, PolicyAction.REFUSE),
        PolicyAction.WARN,
        "Disks on block devices (LVM, iSCSI, multipath). No byte-range lock reaches other hosts there, so vmguard "
        "cannot guard them.",
    )
    network_disks: PolicyAction = _setting(
        Choice(PolicyAction.ALLOW, PolicyAction.WARN, PolicyAction.REFUSE),
        PolicyAction.WARN,
        "Disks that QEMU reaches by itself over the network (rbd, iscsi, nbd, http). vmguard cannot guard them.",
    )
    unsafe_mounts: PolicyAction = _setting(
        Choice(PolicyAction.REFUSE, PolicyAction.WARN),
        PolicyAction.REFUSE,
        "Disks on NFS mounts whose locks do not protect: mounted with nolock or local_lock, or with NFSv3, which keeps "
        "the locks of a dead host until it returns.",
    )
    other_mounts: PolicyAction = _setting(
        Choice(PolicyAction.WARN, PolicyAction.REFUSE),
        PolicyAction.WARN,
        "Writable disks on file systems that other hosts may share, but on which no lock is proven to reach them: SMB, "
        "Ceph, Gluster and everything else in user space (FUSE), GFS2, OCFS2, Lustre, 9p, virtiofs, and every type "
        "that is not known. Such a disk is never shown as guarded. warn locks it all the same, except on SMB, whose "
        "mandatory locks would stop QEMU.",
    )
    local_filesystems: LocalFiles = _setting(
        Choice(LocalFiles.LOCK, LocalFiles.IGNORE),
        LocalFiles.LOCK,
        "Disks on this host's own file systems. lock guards them against a second start on this host; ignore leaves "
        "them alone.",
    )


@dataclass(frozen=True)
class Windows:
    """The byte ranges that are left free for others."""

    qemu: Window = _setting(
        _WINDOW,
        Window.AUTO,
        "Bytes 100-299, QEMU's own image locks. auto leaves them free where QEMU locks them: with libvirt, but not on "
        "Proxmox VE, whose QEMU takes no image locks.",
    )
    libvirt: Window = _setting(
        _WINDOW,
        Window.AUTO,
        "Byte 1, which libvirt locks while it changes a disk's owner or label. auto leaves it free for VMs of libvirt.",
    )
    virtlockd: Window = _setting(
        _WINDOW,
        Window.AUTO,
        'Byte 0, the lock of virtlockd. auto leaves it free where /etc/libvirt/qemu.conf says lock_manager = "lockd"; '
        "held, it keeps out hosts that use virtlockd without vmguard.",
    )


@dataclass(frozen=True)
class Daemon:
    """The process that holds the locks."""

    run_dir: str = _setting(
        AbsolutePath(longest=90),  # the path of a socket has at most 107 bytes, and /vmguard.sock follows
        "/run/vmguard",
        "Where the daemon keeps its socket and its state. The hooks look for it in the default place.",
        restart=True,
    )
    read_group: str = _setting(
        Name("a group's name", r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", may_be_empty=True),
        "vmguard",
        "Its members may read what this host guards (vmguard status, check, who, history, metrics), over a socket of "
        'their own beside run_dir; they can change nothing. Without such a group, and with "", only root may.',
        restart=True,
    )
    start_deadline: float = _setting(
        Duration(5, 3600),
        120.0,
        "A claim whose VM still has no QEMU after this time is looked at again, and released once it is proven that "
        "no process of this host has the disks open.",
    )
    poll_interval: float = _setting(
        Duration(0.05, 10),
        0.2,
        "How often the daemon looks for the QEMU of a VM that is just being started.",
    )
    log_level: LogLevel = _setting(
        Choice(LogLevel.ERROR, LogLevel.WARNING, LogLevel.INFO, LogLevel.DEBUG),
        LogLevel.INFO,
        "error: a human must look. warning: may lead to that. info: each change of state. debug: everything.",
    )
    protected: bool = _setting(
        YesNo(),
        True,
        "Whether the daemon keeps its memory resident (mlockall), and is the last one that the OOM killer takes.",
        restart=True,
    )
    realtime: bool = _setting(
        YesNo(),
        False,
        "Whether the daemon runs before all ordinary processes (SCHED_RR), for hosts that are overloaded at times.",
        restart=True,
    )


@dataclass(frozen=True)
class Unguarded:
    """VMs without a claim, and conflicts while a VM runs."""

    take_up: bool = _setting(
        YesNo(),
        True,
        "yes: a VM that was started without its hook (removed, not executable, added later) is guarded as soon as it "
        "is seen to write on NFS, and that is logged. no: it is only logged, until you call vmguard adopt. A QEMU of "
        "an ordinary user, for which no hypervisor vouches, is only logged in any case: vmguard adopt --pid guards it.",
    )
    action: OnConflict = _setting(
        Choice(OnConflict.FREEZE, OnConflict.FENCE, OnConflict.REPORT, OnConflict.IGNORE),
        OnConflict.FREEZE,
        "What happens to a VM that writes to a disk which another host has locked, because no hook was asked or a disk "
        "was plugged in. freeze stops it at once, fence kills it, report only raises the alarm. ignore: both go on.",
    )
    fence_after: float = _setting(
        Duration(0, 86400),
        30.0,
        "After this time a VM that was frozen over a conflict is killed, if the other one still has its disk. 0s: "
        "never, it stays frozen until you decide.",
    )


@dataclass(frozen=True)
class Hosts:
    """How hosts are named."""

    name: str = _setting(
        Name("a host's name", r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", may_be_empty=True),
        "",
        "This host's name as other hosts show it when they find a disk locked. \"\" means the system's host name.",
    )


@dataclass(frozen=True)
class Config:
    """The whole configuration. ``Config()`` is the one of a host without any file."""

    hook: Hook = _section(Hook, "What happens before a VM starts.")
    policy: Policy = _section(
        Policy,
        "What happens with storage that cannot be guarded: allow starts the VM silently, warn starts it and says so, "
        "refuse does not start it.",
    )
    storage: Storage = _section(Storage, "How far a share reaches into this host.")
    windows: Windows = _section(
        Windows,
        "vmguard locks each disk from byte 0 to its end. Others lock single bytes of it on the same host, and could "
        "not work if vmguard kept those. on leaves the bytes free always, off never.",
    )
    libvirt: Libvirt = _section(Libvirt, "Where libvirt keeps what vmguard reads and where its hooks lie.")
    proxmox: Proxmox = _section(Proxmox, "Starts on Proxmox VE, and where it keeps what vmguard reads.")
    daemon: Daemon = _section(Daemon, "The process that holds the locks.")
    watch: Watch = _section(
        Watch, "The watchdog: is the server's lease alive, does it still honour each lock, and what if not."
    )
    migration: Migration = _section(Migration, "VMs that migrate to this host while they run.")
    unguarded: Unguarded = _section(
        Unguarded, "VMs that run without a claim, and VMs that meet another host's lock while they run."
    )
    notify: Notify = _section(Notify, "Who is told what happens: a command of yours, and targets.")
    owner_record: OwnerRecord = _section(OwnerRecord, "Who holds a disk, since when: written beside the disk.")
    hosts: Hosts = _section(Hosts, "How hosts are named.")
    #: by name or uuid: what is set for one VM alone, keys of VM_KEYS
    vms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: by name: who is told what happens, keys of Target; a missing one has its default
    targets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: by the server's name as mounts have it, or by mount point: how the server itself can be asked
    servers: Mapping[str, Server] = field(default_factory=dict)
    #: where each value was set; a value that is not listed has its default
    origins: Mapping[KeyPath, Origin] = field(default_factory=dict, compare=False, repr=False)

    def notify_targets(self) -> dict[str, Target]:
        """Return who is told what happens, by name."""
        return {name: Target(**entry) for name, entry in self.targets.items()}

    def value(self, setting: Setting) -> Any:
        return getattr(getattr(self, setting.section), setting.key)

    def origin(self, setting: Setting) -> str:
        """Return where a setting was set: ``FILE:LINE``, or ``default``."""
        return str(self.origins.get(setting.path, "default"))

    def server_entry(self, name: str) -> dict[str, Any]:
        """Return what was set for a storage server, by key."""
        keys = [path[2] for path in self.origins if path[:2] == (SERVERS, name)]
        return {key: getattr(self.servers[name], key) for key in keys}


def sections() -> dict[str, str]:
    """Return the names of all sections with their help, in the order of the shipped file."""
    return {item.name: item.metadata["help"] for item in fields(Config) if "help" in item.metadata}


def settings() -> Iterator[Setting]:
    """Yield all rows of the table, in the order of the shipped file."""
    defaults = Config()
    for section in sections():
        for item in fields(getattr(defaults, section)):
            yield _row(section, item)


def _row(section: str, item: Field[Any]) -> Setting:
    meta = item.metadata
    return Setting(section, item.name, meta["kind"], item.default, meta["help"], meta["restart"])


#: the section with an entry for each VM: ``vms: {NAME or UUID: {on_lost: freeze}}``
VMS = "vms"
#: the entries of section ``notify``: ``targets: {NAME: {type: mail, ...}}``
TARGETS = ("notify", "targets")
#: keys that an entry of ``vms`` may have, and the row of the table that each sets for one VM
VM_KEYS = {
    "on_at_risk": ("watch", "on_at_risk"),
    "on_lost": ("watch", "on_lost"),
    "on_conflict": ("unguarded", "action"),
    "conflict_grace": ("unguarded", "fence_after"),
    "after_fence": ("watch", "after_fence"),
    "host_fence": ("watch", "host_fence"),
    "log_only": ("watch", "log_only"),
    "set_clock": ("watch", "set_clock"),
}


def vm_settings() -> dict[str, Setting]:
    """Return the rows of the table that may be set for one VM alone, by the key that does it."""
    rows = {row.path: row for row in settings()}
    return {key: rows[path] for key, path in VM_KEYS.items()}


#: the section with an entry for each storage server: ``servers: {NAME or MOUNT POINT: {transport: ssh}}``
SERVERS = "servers"


def server_settings() -> dict[str, Setting]:
    """Return the rows that an entry of ``servers`` may have, by key."""
    return {item.name: _row(SERVERS, item) for item in fields(Server)}


def build(values: Mapping[KeyPath, Any], origins: Mapping[KeyPath, Origin]) -> Config:
    """Build a configuration from parsed values; a missing one gets its default."""
    defaults = Config()
    parts: dict[str, Any] = {}
    for section in sections():
        given = {path[1]: value for path, value in values.items() if path[0] == section and len(path) == 2}
        parts[section] = type(getattr(defaults, section))(**given)
    named = {prefix: _entries(values, prefix) for prefix in ((VMS,), TARGETS, (SERVERS,))}
    servers = {name: Server(**entry) for name, entry in named[(SERVERS,)].items()}
    return Config(**parts, vms=named[(VMS,)], targets=named[TARGETS], servers=servers, origins=dict(origins))


def _entries(values: Mapping[KeyPath, Any], prefix: KeyPath) -> dict[str, dict[str, Any]]:
    """Return what is set below a key that holds entries with names of the admin's own, by name and key."""
    found: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        if path[:-2] == prefix:
            found.setdefault(path[-2], {})[path[-1]] = value
    return found
