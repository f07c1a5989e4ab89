"""What the kernel says about mounts: /proc/PID/mountinfo. No call here touches the share."""

from __future__ import annotations

import itertools
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NFS_TYPES = ("nfs", "nfs4")
SMB_TYPES = ("cifs", "smb3", "smbfs")

# What a mount is to vmguard. Plain words instead of an enum, whose import alone would cost the hook 3 ms.
#: locks are the server's, have a lease, and their loss is noticed
NFSV4 = "nfsv4"
#: this host's own: no other host can open a file there
OWN = "own"
#: anything else: another host may open the files, and no lock is proven to reach it
OTHER = "other"

#: on a block device that one host mounts at a time; fuseblk is FUSE's word for "on a block device"
_ON_OWN_DISKS = """
    ext2 ext3 ext4 xfs btrfs zfs f2fs bcachefs jfs reiserfs reiser4 nilfs2 minix bfs ufs hfs hfsplus apfs vfat msdos
    exfat ntfs ntfs3 fuseblk iso9660 udf squashfs erofs romfs cramfs jffs2 ubifs
"""
_IN_MEMORY = "tmpfs ramfs rootfs devtmpfs hugetlbfs"
#: an autofs mount holds nothing but the points of the mounts to come
_OF_THE_KERNEL = """
    proc sysfs cgroup cgroup2 devpts mqueue debugfs tracefs securityfs pstore bpf configfs fusectl binfmt_misc nsfs
    efivarfs selinuxfs smackfs rpc_pipefs nfsd autofs resctrl
"""
_OWN_TYPES = frozenset(f"{_ON_OWN_DISKS} {_IN_MEMORY} {_OF_THE_KERNEL}".split())
#: stacked file systems, and the option that names the folder that is written to; empty: the source is that folder
_STACKED = {"overlay": "upperdir", "ecryptfs": ""}
#: what is known of the locks on some of the others
_LOCKS_OF = {
    "ceph": "its metadata server keeps the locks; vmguard cannot see whether they are still there",
    "ocfs2": "with its o2cb stack each node keeps its locks to itself (ocfs2_fops_no_plocks)",
    "gfs2": "dlm_controld keeps the locks; with localflocks, or without it, they stay on this host",
    "lustre": "without the mount option flock there are no locks, and with localflock they stay on this host",
    "beegfs": "locks stay on this host unless tuneUseGlobalFileLocks is set",
    "virtiofs": "locks stay in this guest unless virtiofsd has posix_lock",
    "9p": "locks stay on this host with most of its protocol versions and cache modes",
    "overlay": "it keeps locks to itself, and the folder that it writes to lies on a share",
    "ecryptfs": "it keeps locks to itself, and its folder lies on a share",
}
#: a loop device, and where the kernel names its file (it asks nobody: drivers/block/loop.c)
_LOOP = "/dev/loop"
_LOOP_FILE = "/sys/block/{}/loop/backing_file"
#: file systems in files that nobody can write to: there is nothing to lock
_ONLY_READ = ("squashfs", "iso9660", "erofs", "cramfs", "romfs")


class Mount:
    """One line of mountinfo (proc(5))."""

    __slots__ = ("device", "id", "image", "options", "point", "read_only", "source", "type")

    def __init__(
        self, mount_id: int, device: int, point: str, kind: str, source: str, options: str, read_only: bool = False
    ) -> None:
        self.id = mount_id
        self.device = device
        self.point = point
        self.type = kind
        self.source = source
        #: the file system's own options: ``vers=4.2,hard,local_lock=none,...``
        self.options = options.split(",")
        #: this mount of it, whatever the file system's own options say
        self.read_only = read_only
        #: the file behind the loop device that it lies on; empty for none
        self.image = ""

    def option(self, name: str) -> str:
        """Return the value of ``name=value``, empty if there is none."""
        for word in self.options:
            if word.startswith(name + "="):
                return word[len(name) + 1 :]
        return ""

    @property
    def is_nfs(self) -> bool:
        return self.type in NFS_TYPES


def unescape(text: str) -> str:
    """Undo the kernel's octal escapes of space, tab, newline and backslash. A person's fstab may hold anything else."""
    if "\\" not in text:
        return text
    head, *rest = text.split("\\")
    parts = [head]
    for piece in rest:
        digits = piece[:3]
        is_octal = len(digits) == 3 and not digits.strip("01234567")
        parts.append(chr(int(digits, 8)) + piece[3:] if is_octal else "\\" + piece)
    return "".join(parts)


def mounts(pid: int | str = "self") -> Iterator[Mount]:
    """Yield all mounts of a process's mount namespace. Raises OSError if the process is gone."""
    # A carriage return in a mount point is no end of a line: the kernel escapes those that are.
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        for mount in parse_mountinfo(lines):
            if mount.source.startswith(_LOOP) and mount.type not in _ONLY_READ:
                mount.image = image_behind(mount.source)
            yield mount


def image_behind(source: str, told_in: str = _LOOP_FILE) -> str:
    """Return the file behind a loop device, or a partition of one; empty if the kernel does not tell."""
    number = source.removeprefix(_LOOP).partition("p")[0]
    try:
        with open(told_in.format(f"loop{int(number)}"), encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read().rstrip("\n")
    except (OSError, ValueError):
        return ""


def parse_mountinfo(lines: Iterable[str]) -> Iterator[Mount]:
    """Yield the mounts of a mountinfo (proc_pid_mountinfo(5)); a line of another form is passed over."""
    for line in lines:
        left, _, right = line.rstrip("\n").partition(" - ")
        before, after = left.split(" "), right.split(" ")
        if len(before) < 6 or len(after) < 3:
            continue
        major, _, minor = before[2].partition(":")
        try:
            number, device = int(before[0]), os.makedev(int(major), int(minor))
        except (ValueError, OverflowError):
            continue
        point, source, read_only = unescape(before[4]), unescape(after[1]), "ro" in before[5].split(",")
        yield Mount(number, device, point, after[0], source, after[2], read_only)


def mount_of_path(path: str, table: Iterable[Mount]) -> Mount | None:
    """Return the mount on which a path without links lies, judged by the text alone. Of two on one point the later."""
    best: Mount | None = None
    for mount in table:
        point = mount.point
        if (point == "/" or path == point or path.startswith(point + "/")) and (
            best is None or len(point) >= len(best.point)
        ):
            best = mount
    return best


def mount_of_id(mount_id: int) -> Mount | None:
    """Return the mount that a descriptor's ``mnt_id`` names; None if it is gone from this namespace."""
    for mount in mounts():
        if mount.id == mount_id:
            return mount
    return None


def devices(pid: int | str = "self", most: int | None = None) -> dict[int, int]:
    """Map mount ids to device numbers, for a process's mount namespace. Raises OSError if the process is gone.

    ``most``: of so many mounts at most. Whoever may make a namespace of his own has a hundred thousand in it.
    """
    with open(f"/proc/{pid}/mountinfo", "rb") as lines:
        return dict(_device(line) for line in itertools.islice(lines, most))


def _device(line: bytes) -> tuple[int, int]:
    """Read the first fields of a line of the kernel's; as a Mount it would take ten times as long."""
    number, _, device, _ = line.split(b" ", 3)
    major, _, minor = device.partition(b":")
    return int(number), os.makedev(int(major), int(minor))


def keeps_locks_here(mount: Mount) -> bool:
    """Return whether an NFS mount keeps OFD locks on this host alone: ``nolock``, ``local_lock=posix|all`` (nfs(5))."""
    return "nolock" in mount.options or mount.option("local_lock") in ("posix", "all")


def why_unsafe(mount: Mount) -> str:
    """Return why a lock on this NFS mount would prove nothing; empty if it would, and for other file systems.

    NFSv3 has no lease: a lost lock is never reported (fs/lockd/clntlock.c, reclaimer).
    """
    if not mount.is_nfs:
        return ""
    version = mount.option("vers")
    if keeps_locks_here(mount):
        local = mount.option("local_lock")
        word = "nolock" if not local else f"local_lock={local}"
        return f"{mount.point} is mounted with {word}: locks stay on this host"
    if version.startswith(("2", "3")):
        return f"{mount.point} is mounted with NFSv{version}: a lost lock is never noticed (use vers=4.1 or 4.2)"
    if not version and mount.type != "nfs4":
        return f"{mount.point} is NFS of a version that the kernel does not tell (use vers=4.1 or 4.2)"
    return ""


def kind_of(mount: Mount, table: Iterable[Mount] = ()) -> str:
    """Return NFSV4, OWN or OTHER. Pure.

    ``table``: all mounts, where the folder below a stacked file system (overlay), or the file behind a loop device, is
    looked up. Locks on these never reach it, so that one on a share is OTHER. A type that is not known is OTHER, and so
    is NFS whose locks prove nothing.
    """
    if mount.is_nfs:
        return OTHER if why_unsafe(mount) else NFSV4
    if mount.type not in _OWN_TYPES and mount.type not in _STACKED:
        return OTHER
    written = mount.image or written_to(mount.type, mount.source, mount.options)
    others = [other for other in table if other is not mount] if written.startswith("/") else []
    below = mount_of_path(written, others)
    return OWN if below is None or kind_of(below, others) == OWN else OTHER


def written_to(kind: str, source: str, options: Iterable[str]) -> str:
    """Return the folder that a stacked file system writes to; empty for any other, and where nothing is written."""
    option = _STACKED.get(kind)
    if option is None:
        return ""
    values = (unescape(word[len(option) + 1 :]) for word in options if option and word.startswith(option + "="))
    return next(values, "") if option else source


def is_share_type(kind: str) -> bool:
    """Return whether a type of file system, as fstab has it, may be shared with other hosts."""
    return kind not in _OWN_TYPES and kind not in _STACKED


def why_other(mount: Mount) -> str:
    """Return why a file on a mount of the kind OTHER counts as unguarded, beginning with the mount point."""
    if mount.is_nfs:
        return why_unsafe(mount)
    where = f"{mount.point} is a {mount.type} file system"
    if mount.image:
        return f"{where} in the image {mount.image}, which lies on a share: locks stay on this host"
    if mount.type in SMB_TYPES:
        return f"{where}: SMB's locks are mandatory, so a lock beside QEMU would stop QEMU's own I/O"
    why = _LOCKS_OF.get(mount.type, "")
    if not why and mount.type.partition(".")[0] == "fuse":
        why = "where its program implements no locks, they stay on this host"
    return f"{where}, on which no lock is proven to keep other hosts out" + (f" ({why})" if why else "")
