"""Read the storage of a VM from its configuration on Proxmox: the same Domain and Sources as from libvirt's XML. Pure.

In the configuration                                becomes
ide, sata, scsi, virtio with a volume of images     disk, exclusive; the backing chain is read from its header, shared
  with ro=1, or template: 1                         disk, shared: a template's images back running linked clones
  with media=cdrom                                  disk, shared when it lies among the images; else nothing:
  an ISO, cloud-init, none, cdrom                   nothing: read-only, used by many, rewritten by Proxmox itself
efidisk0                                            nvram, exclusive
tpmstate0                                           tpm-state, exclusive: swtpm, not QEMU, writes to it
unusedN                                             nothing: not opened
an absolute path                                    like a disk; /dev/...: unguarded
a volume of no storage with files                   unguarded, with the storage's type and why
virtiofsN                                           unguarded: shared with the guest file by file
args: with a drive in it                            unguarded: what it opens cannot be known
vmstate                                             nothing: read once, at resume, by the holder of the disks; Proxmox
                                                    removes it then, and a lock on it would keep gigabytes allocated
what Proxmox drops, or may drop                     unguarded, with the reason; a drive whose file can be read is
                                                    locked all the same, and may be missing
"""

from __future__ import annotations

from vmguard.core.locks.plan import (
    BLOCK,
    DIRECTORY,
    DISK,
    EXCLUSIVE,
    NVRAM,
    OTHER,
    SHARED,
    TPM_STATE,
    Unguarded,
    on_block_device,
)
from vmguard.core.sources.domain_xml import FILE, Domain, Source, opens_storage
from vmguard.core.sources.pve_config import CDROM_DEVICE, NONE, Drive, VmConfig
from vmguard.core.sources.pve_storage import Storage, Storages
from vmguard.errors import PlanError

_ROLES = {"efidisk": NVRAM, "tpmstate": TPM_STATE}


class PveVm:
    """The files that a start opens, and the storages that it needs."""

    __slots__ = ("domain", "notes", "saved_image", "storages")

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        #: path of a source -> the storage that it is on
        self.storages: dict[str, Storage] = {}
        #: the file of its saved memory, empty if that is no file; None: it starts anew
        self.saved_image: str | None = None
        #: remarks for people, without effect on the start
        self.notes: list[str] = []


def plan_vm(config: VmConfig, storages: Storages, node: str = "") -> PveVm:
    """Return what a start of the VM opens. Raises PlanError where Proxmox itself could not start it."""
    vm = PveVm(Domain(config.name, config.vmid, probes=True))
    for drive in [*config.drives.values(), *config.beside]:
        try:
            _read_drive(drive, config.is_template, storages, node, vm)
        except PlanError as problem:
            if not drive.unsure:
                raise
            vm.domain.unguarded.append(Unguarded(drive.key, problem.message, OTHER))
    for key, value in config.options.items():
        if key.startswith("virtiofs"):
            vm.domain.unguarded.append(Unguarded(key, "a folder that is shared with the guest file by file", DIRECTORY))
        elif key == "args":
            _read_args(value, vm.domain)
    for key, why in config.dropped:
        vm.domain.unguarded.append(Unguarded(key, why, OTHER))
    if "vmstate" in config.options:
        vm.saved_image = _saved_image(config.options["vmstate"], storages, node)
    if config.pending:
        vm.notes.append(f"changes of {', '.join(config.pending)} are pending: they count from the next start on")
    return vm


def _saved_image(volume: str, storages: Storages, node: str) -> str:
    """Return where saved memory lies, empty when that is no file. Whether it can be read is Proxmox's business."""
    try:
        kind, place, _ = storages.locate(volume, node, "vmstate")
    except PlanError:
        return ""
    return place if kind == FILE else ""


def _read_drive(drive: Drive, template: bool, storages: Storages, node: str, vm: PveVm) -> None:
    if drive.bus == "unused" or drive.file in (NONE, CDROM_DEVICE) or (drive.is_cdrom and drive.is_cloudinit):
        return
    mode = SHARED if template or drive.read_only or drive.is_cdrom else EXCLUSIVE
    role = _ROLES.get(drive.bus, DISK)
    if drive.file.startswith("/dev/"):
        if not drive.is_cdrom:
            reason = on_block_device(drive.file)
            vm.domain.unguarded.append(Unguarded(drive.key, reason, BLOCK))
        return
    if drive.file.startswith("/"):
        format = drive.options.get("format", "raw")
        _add(Source(drive.key, FILE, drive.file, mode, role, format), drive.unsure, vm)
        return
    storage, name = storages.of(drive.file, drive.key)
    if drive.is_cdrom and name.startswith(("iso/", "backup/", "import/")):
        return
    kind, place, format = storages.locate(drive.file, node, drive.key)
    source = Source(drive.key, kind, place, mode, role, drive.options.get("format") or format or "raw")
    # A btrfs is local to this node, and its layout has changed over time: a file that is not where it is expected is
    # reported, but does not prevent the start.
    _add(source, drive.unsure or storage.type == "btrfs", vm)
    if kind == FILE:
        vm.storages[place] = storage
        source.home = storage.path


def _add(source: Source, unsure: bool, vm: PveVm) -> None:
    if unsure:
        source.policy = "optional"
    vm.domain.sources.append(source)


def _read_args(args: str, domain: Domain) -> None:
    for word in args.replace("'", "").replace('"', "").split():
        if opens_storage(word):
            reason = f"{word[:80]} is handed to QEMU as it is: what it opens is not known to Proxmox either"
            domain.unguarded.append(Unguarded("args", reason, OTHER))
            return
