"""A start from saved memory: refuse it when somebody ran the VM on its disks since (core/locks/saved_state.py).

libvirt calls its hook with ``restore`` right before ``prepare``; the hook tells the daemon, whose settings for the
claim say so. Proxmox's configuration names the image (``vmstate``). The disks are locked by now, so that nobody can run
the VM between this look and the start. Imported only for such a start: its record is opened and read once more.
"""

from __future__ import annotations

import os

from vmguard.adapters.linux import statx
from vmguard.adapters.linux.regular_file import open_undelegated
from vmguard.adapters.storage import owner_record
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.locks.record_match import why_another
from vmguard.core.locks.saved_state import FAILED, MAX_FAILED, why_stale
from vmguard.core.words import printable
from vmguard.errors import VmguardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmguard.core.locks.owner_record import Owner
    from vmguard.hook.claim_on_share import ClaimedFile, ClaimedFiles
    from vmguard.hook.vm_to_claim import ProgressPipe, VmToClaim
    from vmguard.protocol.messages import ClaimSettings

#: as libvirt writes it (src/qemu/qemu_saveimage.h): magic, version, length of the domain XML, then that XML
_MAGIC = b"LibvirtQemudSave"
_HEADER_BYTES = 92
_MAX_XML_BYTES = 1 << 20
#: the kernel keeps 15 letters of libvirt_iohelper
_IOHELPER = b"libvirt_iohelpe"


def refuse_stale(vm: VmToClaim, claimed: ClaimedFiles, settings: ClaimSettings, progress: ProgressPipe) -> None:
    """Raise VmguardError when the saved memory is older than a disk. What cannot be read becomes a warning."""
    progress.stage("comparing the saved memory with the owner records", settings.timeout)
    folder = settings.record.folder
    if not folder:
        claimed.warnings.append(
            "without owner records nobody can tell whether the saved memory is older than its disks"
        )
        return
    here, saved_at = (settings.identity.host, settings.identity.machine), settings.saved or 0.0
    if vm.saved_image:
        saved_at = _written(vm.saved_image)
    for file in claimed.files:
        if file.plan.mode != EXCLUSIVE:
            continue
        try:
            claims = _last_claims(file.real, folder, file.key[1])
            born = statx.birth_time(file.fd)
            own = [owner for owner in claims if not why_another(owner, file.real, born)]
            why = why_stale(own, vm.uuid, here, saved_at) if own else _why_replaced(vm, file, claims, folder)
        except OSError as problem:
            claimed.warnings.append(
                f"nobody can tell whether the saved memory is older than {file.plan.path}:"
                f" its owner record cannot be read ({problem.strerror})"
            )
            continue
        if why:
            raise VmguardError(
                f"VM '{printable(vm.name)}' is not started: its saved memory does not fit disk"
                f" {printable(file.plan.path)} any more",
                f"start it without the saved memory, as after a power cut: {vm.start_anew}",
                [f"  because  : {why}"],
            )


def _last_claims(disk: str, folder: str, inode: int) -> list[Owner]:
    """Return a disk's last claim, and those before it only when its start failed: each costs a READ."""
    read = owner_record.read_claims
    claims = owner_record.as_owner(disk, lambda: read(disk, folder, inode, 1))
    if not claims or claims[0].ended != FAILED:
        return claims
    return owner_record.as_owner(disk, lambda: read(disk, folder, inode, 1 + MAX_FAILED))


def _why_replaced(vm: VmToClaim, file: ClaimedFile, strangers: list[Owner], folder: str) -> str:
    """Return why a disk that has no claim is not the file that the VM had in its place when it ran last.

    ``strangers``: claims of a deleted file that had the same inode number. Raises OSError.
    """
    if any(owner.uuid == vm.uuid for owner in strangers):
        return "it was made anew since: the VM's last claim is of a deleted file that had its inode number"
    inode, name = file.key[1], os.path.basename(file.plan.path)
    listed = owner_record.listed_disks(file.real, folder, vm.id)
    for other in listed if inode not in listed else ():
        last = next(iter(_last_claims(file.real, folder, other)), None)
        if last is None or (last.uuid == vm.uuid and os.path.basename(last.path) == name):
            return (
                f"it was replaced since: when the VM ran last, its disk was another file (inode {other}, not {inode})"
            )
    return ""


def _written(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def image_time(libvirtd: int, uuid: str) -> float:
    """Return when the image was written that libvirtd restores a VM from, in seconds since the epoch; 0: not known.

    The hook is not told which file that is, but libvirtd has it open for reading while it waits for ``restore``
    (qemuDomainRestoreInternal, qemuDomainObjRestore: qemuSaveImageOpen comes before the hook). With --bypass-cache its
    iohelper has it open instead. ``libvirtd``: the pid of the hook's parent.
    """
    times = [written for pid in (libvirtd, *_iohelpers(libvirtd)) for written in _images_open_in(pid, uuid)]
    return min(times, default=0.0)


def _images_open_in(pid: int, uuid: str) -> list[float]:
    """Return when each saved image of a VM was written that a process has open for reading."""
    folder = f"/proc/{pid}/fd"
    found: list[float] = []
    try:
        names = os.listdir(folder)
    except OSError:
        return found
    for name in names:
        try:
            path = os.readlink(f"{folder}/{name}")
            if not path.startswith("/") or path.startswith(("/dev/", "/proc/", "/sys/", "/memfd:")):
                continue
            written = _image_of(f"{folder}/{name}", uuid)
        except (OSError, ValueError):
            continue
        if written:
            found.append(written)
    return found


def _iohelpers(libvirtd: int) -> list[int]:
    """Return the children of libvirtd that read or write a file for it, past the page cache (virFileWrapperFdNew)."""
    try:
        threads = os.listdir(f"/proc/{libvirtd}/task")
    except OSError:
        return []
    children = [word for thread in threads for word in _content(f"/proc/{libvirtd}/task/{thread}/children").split()]
    return [int(child) for child in children if _content(f"/proc/{int(child)}/comm").strip() == _IOHELPER]


def _content(path: str) -> bytes:
    """Return what a file of /proc holds; nothing if its thread or process has just ended."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return b""


def _image_of(link: str, uuid: str) -> float:
    """Return when an open file was written, if it is a saved image of that VM; else 0. Raises OSError, ValueError."""
    with open(link.replace("/fd/", "/fdinfo/"), "rb") as info:
        flags = next((int(line.split()[1], 8) for line in info if line.startswith(b"flags:")), os.O_PATH)
    if flags & (os.O_ACCMODE | os.O_PATH) != os.O_RDONLY or flags & os.O_DIRECTORY:
        return 0.0
    fd = open_undelegated(link, os.O_NONBLOCK | os.O_NOCTTY)
    try:
        head = os.pread(fd, _HEADER_BYTES, 0)
        if not head.startswith(_MAGIC):
            return 0.0
        length = min(int.from_bytes(head[20:24], "little"), _MAX_XML_BYTES)
        xml = os.pread(fd, length, _HEADER_BYTES)
        return os.fstat(fd).st_mtime if f"<uuid>{uuid}</uuid>".encode() in xml else 0.0
    finally:
        os.close(fd)
