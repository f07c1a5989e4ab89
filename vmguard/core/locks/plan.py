"""The plan of one VM: the files that a start locks, and the storage that no lock covers.

The hook builds the plan on its hot path, where importing ``dataclasses``, ``enum`` or ``typing`` alone would cost more
than all of its work (10, 3 and 8 ms, against 6 ms for a bare interpreter). So these are plain classes with slots.
"""

from __future__ import annotations

from vmguard.core.words import printable

EXCLUSIVE = "exclusive"
SHARED = "shared"
MODES = (EXCLUSIVE, SHARED)

# Roles: why a file belongs to a VM. They are part of the JSON schema of `vmguard plan`.
DISK = "disk"
BACKING = "backing"
DATA_FILE = "data-file"
MIRROR = "mirror"
NVRAM = "nvram"
LOADER = "loader"
TPM_STATE = "tpm-state"
MEMORY = "memory"
#: pure output, which no claim names: saved memory
OUTPUT = "output"

# Kinds of storage that no lock covers. The configured policy uses these names.
BLOCK = "block"
NETWORK = "network"
DIRECTORY = "directory"
MISSING = "missing"
LOCAL = "local"
OTHER = "other"
OTHER_MOUNT = "other_mount"


def on_block_device(place: str) -> str:
    """Return why something that lies on a block device is left unguarded (kind BLOCK)."""
    return f"{place} is a block device: byte-range locks on it do not reach other hosts"


def role_of_found(path: str, writable: bool) -> str:
    """Return the role of an open file that no claim names: a disk, or an image below one.

    What is only read and has a medium's name, ``x.iso`` or Proxmox's ``vm-100-cloudinit.qcow2``, is no image below a
    disk: the VM can live without it. Nobody announces a CD that is inserted later, and Proxmox's are never claimed.
    Nor can it lose more than a snapshot with Proxmox's ``vm-100-state-NAME.raw``, which QEMU opens as it opens a disk.
    """
    name = path.removesuffix(" (deleted)").rpartition("/")[2].lower()
    stem, _, suffix = name.partition(".")
    vm, _, number = stem.partition("-")
    number, _, what = number.partition("-")
    of_proxmox = vm == "vm" and number.isascii() and number.isdigit()
    if of_proxmox and what.startswith("state-") and suffix == "raw":
        return OUTPUT
    return DISK if writable or name.endswith(".iso") or (of_proxmox and what == "cloudinit") else BACKING


class PlannedFile:
    """One file that a start locks: its path, the lock's mode, and the role of the file."""

    __slots__ = ("mode", "path", "role", "source")

    def __init__(self, path: str, mode: str, role: str, source: str) -> None:
        self.path = path
        self.mode = mode
        self.role = role
        #: what names the file, for people: ``disk vda``, ``backing of /srv/vm/a.qcow2``
        self.source = printable(source)

    def as_json(self) -> dict[str, str]:
        return {"path": self.path, "mode": self.mode, "role": self.role, "source": self.source}

    def __repr__(self) -> str:
        return f"PlannedFile({self.path!r}, {self.mode}, {self.role}, {self.source!r})"


class Unguarded:
    """A part of the VM's storage that no lock covers, and why. ``kind`` selects the policy for it."""

    __slots__ = ("kind", "reason", "source")

    def __init__(self, source: str, reason: str, kind: str) -> None:
        self.source = printable(source)
        self.reason = printable(reason)
        #: one of the kinds above; ``other_mount``: a mount that other hosts may share, on which no lock is proven to
        #: reach them; ``missing``: an optional disk is not there, or a file appears only when the VM starts; ``local``:
        #: a backing image on this host's own file system, outside of what belongs to the VM
        self.kind = kind

    def as_json(self) -> dict[str, str]:
        return {"source": self.source, "reason": self.reason}

    def __repr__(self) -> str:
        return f"Unguarded({self.source!r}, {self.reason!r}, {self.kind!r})"


class Plan:
    """All files of a VM, and everything that is left unguarded."""

    __slots__ = ("files", "name", "unguarded", "uuid")

    def __init__(self, name: str, uuid: str, files: list[PlannedFile], unguarded: list[Unguarded]) -> None:
        self.name = name
        self.uuid = uuid
        self.files = files
        self.unguarded = unguarded

    def as_json(self) -> dict[str, object]:
        return {
            "files": [file.as_json() for file in self.files],
            "unguarded": [item.as_json() for item in self.unguarded],
        }
