"""Read storage.cfg as Proxmox does, and locate the file of a volume id. Pure: nothing is opened here.

    storages = parse_storages(text)
    kind, place, format = storages.locate("nas:100/vm-100-disk-0.qcow2", "node1", "scsi0")

=================== ==============================================================================================
dir, nfs            a file: <path>/images/<VMID>/<name>, or below the folder that ``content-dirs images=`` names
btrfs               a file on this node; a raw image is ``disk.raw`` in a folder of its own
cifs                not guarded: SMB's locks are mandatory, so a lock beside QEMU would stop QEMU's own I/O
lvm, lvmthin, zfspool, iscsi, drbd                  not guarded: block devices
rbd, zfs, iscsidirect, glusterfs                    not guarded: QEMU reaches them over the network
all others                                          not guarded; the reason names their type
=================== ==============================================================================================

The format (pve-common SectionConfig.pm, parse_config): a header ``type: id`` at the start of a line, then keys after
white space. An EMPTY line ends a section; a line of blanks does not. A header that follows without an empty line is
not a header. When a key occurs twice, the first one counts.
"""

from __future__ import annotations

from vmguard.core.locks.plan import BLOCK, DIRECTORY, NETWORK, OTHER, on_block_device
from vmguard.core.sources.pve_config import boolean, is_store_id
from vmguard.errors import BadInput, PlanError

FILE = "file"
MAX_BYTES = 1 << 20

_SPACE = " \t\r\f\v"
_AS_BLANKS = str.maketrans(dict.fromkeys(_SPACE, " "))
_FILES = ("dir", "nfs", "btrfs")
_BLOCKS = ("lvm", "lvmthin", "zfspool", "iscsi", "drbd")
_NETWORK = ("rbd", "zfs", "iscsidirect", "glusterfs")
_SMB = "SMB's locks are mandatory: a lock beside QEMU would stop QEMU's own reads and writes"
#: type of content -> its folder below the storage's path (Storage/Plugin.pm)
_SUBFOLDERS = {"images": "images", "iso": "template/iso", "vztmpl": "template/cache", "backup": "dump",
               "snippets": "snippets", "rootdir": "private", "import": "import"}  # fmt: skip
_FORMATS = ("raw", "qcow2", "vmdk", "subvol")
_LOCAL_PATH = "/var/lib/vz"


class Volume:
    """A volume, as the part of a volume id behind the colon names it."""

    __slots__ = ("format", "kind", "name", "vmid")

    def __init__(self, kind: str, name: str, vmid: str = "", format: str = "raw") -> None:
        #: images, iso, snippets...
        self.kind = kind
        self.name = name
        self.vmid = vmid
        self.format = format


class Storage:
    """One section of storage.cfg."""

    __slots__ = ("id", "options", "type")

    def __init__(self, kind: str, name: str) -> None:
        self.type = kind
        self.id = name
        self.options: dict[str, str] = {}

    @property
    def path(self) -> str:
        """Its folder; empty for a storage that has none."""
        default = f"/mnt/pve/{self.id}" if self.type in ("nfs", "cifs") else ""
        return self.options.get("path", default).rstrip("/")

    @property
    def has_files(self) -> bool:
        """Whether its volumes are files that can be locked."""
        return self.type in _FILES

    @property
    def is_disabled(self) -> bool:
        """Whether the configuration disables it."""
        return boolean(self.options.get("disable", "")) is True

    @property
    def is_shared(self) -> bool:
        """Whether all nodes see the same content."""
        return self.type in ("nfs", "cifs", "cephfs") or boolean(self.options.get("shared", "")) is True

    @property
    def nodes(self) -> list[str]:
        """The nodes that may use it; empty for all."""
        return _words(self.options.get("nodes", ""))

    @property
    def mount_point(self) -> str:
        """The mount that must be there before anything on it may be touched; empty when none is configured."""
        if self.type in ("nfs", "cifs"):
            return self.path
        wanted = self.options.get("is_mountpoint", "")
        verdict = boolean(wanted)
        if verdict is not None:
            return self.path if verdict else ""
        return wanted if wanted.startswith("/") else ""

    def folder(self, kind: str) -> str:
        """Return the folder of a kind of content."""
        for word in _words(self.options.get("content-dirs", "")):
            name, sign, place = word.partition("=")
            if sign and name == kind:
                return f"{self.path}/{place.strip('/')}"
        return f"{self.path}/{_SUBFOLDERS[kind]}"

    def why_not_here(self, node: str) -> str:
        """Return why Proxmox does not use it on a node; empty when it does, or when no node is given."""
        if self.is_disabled:
            return "it is disabled"
        if node and self.nodes and node not in self.nodes:
            return f"it is not meant for node {node}, only for {', '.join(self.nodes)}"
        return ""


class Storages:
    """All storages of a cluster."""

    __slots__ = ("by_id", "problems")

    def __init__(self) -> None:
        self.by_id: dict[str, Storage] = {}
        #: lines that Proxmox ignores with a warning
        self.problems: list[str] = []

    def of(self, volume_id: str, what: str) -> tuple[Storage, str]:
        """Return the storage of a volume id and the volume's name. Raises PlanError."""
        store, _, volume = volume_id.partition(":")
        storage = self.by_id.get(store)
        if storage is None:
            alike = [name for name in self.by_id if name.lower() == store.lower()]
            hint = f"there is {alike[0]!r}: names of storages count letter by letter" if alike else ""
            raise PlanError(f"{what}: storage {store[:80]!r} does not exist", hint or "pvesm status lists them")
        return storage, volume

    def locate(self, volume_id: str, node: str, what: str) -> tuple[str, str, str]:
        """Return FILE, path and format; or a kind of Unguarded, the reason and an empty format. Raises PlanError."""
        storage, name = self.of(volume_id, what)
        why = storage.why_not_here(node)
        if why:
            raise PlanError(f"{what}: storage {storage.id!r} cannot be used here: {why}", "Proxmox refuses this, too")
        where = f"{volume_id} on the {storage.type} storage {storage.id!r}"
        if storage.type in _BLOCKS:
            return BLOCK, on_block_device(where), ""
        if storage.type in _NETWORK:
            return NETWORK, f"{where} is reached over the network: no file to lock", ""
        if storage.type == "cifs":
            return NETWORK, f"{where}: {_SMB}", ""
        if not storage.has_files:
            return OTHER, f"{where}: what it keeps is not known here", ""
        if not storage.path.startswith("/"):
            raise PlanError(f"{what}: storage {storage.id!r} has no path")
        volume = parse_volume(name, what)
        if volume.format == "subvol":
            return DIRECTORY, f"{where} is a folder, not an image", ""
        return FILE, _file(storage, volume), volume.format


def _file(storage: Storage, volume: Volume) -> str:
    folder = storage.folder(volume.kind)
    if volume.kind != "images":
        return f"{folder}/{volume.name}"
    path = f"{folder}/{volume.vmid}/{volume.name}"
    if storage.type == "btrfs" and volume.format == "raw":
        return f"{path.removesuffix('.raw')}/disk.raw"
    return path


def parse_volume(name: str, what: str) -> Volume:
    """Read the name of a volume on a storage with files (Storage/Plugin.pm, parse_volname). Raises PlanError.

    ``100/vm-100-disk-0.qcow2``, and for a linked clone ``100/base-100-disk-0.qcow2/101/vm-101-disk-0.qcow2``.
    """
    parts = name.split("/")
    if len(parts) == 4 and parts[0].isdigit() and parts[2].isdigit() and _format(parts[1]):
        parts = parts[2:]
    if len(parts) == 2:
        folder, last = parts
        if folder.isascii() and folder.isdigit() and _format(last):
            return Volume("images", last, folder, _format(last))
        if folder in _SUBFOLDERS and folder != "images" and last and last not in (".", ".."):
            return Volume(folder, last)
    raise PlanError(f"{what}: {name[:120]!r} is not the name of a volume on a storage with files")


def _format(name: str) -> str:
    """Return the format that an image's name ends in; empty when the name is not an image's."""
    stem, _, suffix = name.rpartition(".")
    good = stem and suffix in _FORMATS and not any(char.isspace() for char in name)
    return suffix if good else ""


def parse_storages(data: bytes) -> Storages:
    """Read storage.cfg. Raises BadInput when it cannot be one."""
    if len(data) > MAX_BYTES or b"\0" in data:
        raise BadInput("storage.cfg is no text, or larger than a file in /etc/pve can be")
    storages = Storages()
    section: Storage | None = None
    inside = False
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        if line.lstrip(_SPACE).startswith("#"):
            continue
        if line in ("", "0"):  # false in Perl
            section, inside = None, False
        elif inside:
            _take(line, section, storages)
        elif line.strip(_SPACE):
            inside, section = _header(line, storages)
    _mend_local(storages)
    return storages


def _header(line: str, storages: Storages) -> tuple[bool, Storage | None]:
    """Return whether a section begins, and its storage; a section that Proxmox skips has none."""
    kind, colon, name = line.partition(":")
    name = name.strip(_SPACE)
    if not colon or not kind or kind[0] in _SPACE or not name or any(char.isspace() for char in kind + name):
        storages.problems.append(f"storage.cfg: Proxmox ignores the line {line.strip(_SPACE)[:80]!r}")
        return False, None
    if not is_store_id(name):
        storages.problems.append(f"storage.cfg: Proxmox skips {name[:80]!r}: not the name of a storage")
        return True, None
    section = storages.by_id[name] = Storage(kind.lower(), name)
    return True, section


def _take(line: str, section: Storage | None, storages: Storages) -> None:
    if section is None:
        return
    text = line.strip(_SPACE)
    if line[0] not in _SPACE or not text:
        if text:
            storages.problems.append(f"storage.cfg: {section.id}: Proxmox ignores the line {text[:80]!r}")
        return
    key = text.translate(_AS_BLANKS).split(" ", 1)[0]  # not split(): it knows more blanks than Perl's \s for bytes
    value = text[len(key) :].strip(_SPACE)
    if key in section.options:
        storages.problems.append(f"storage.cfg: {section.id}: {key!r} stands there twice, the first counts")
    elif key == "path" and not value.startswith("/"):
        storages.problems.append(f"storage.cfg: {section.id}: Proxmox ignores the path {value[:80]!r}")
    else:
        section.options[key] = value or "1"


def _mend_local(storages: Storages) -> None:
    """Add or correct ``local``, as Proxmox does: it always exists, as a folder, on all nodes."""
    local = storages.by_id.get("local")
    if local is None or local.type != "dir" or local.options.get("path", _LOCAL_PATH) != _LOCAL_PATH:
        local = storages.by_id["local"] = Storage("dir", "local")
    local.options["path"] = _LOCAL_PATH
    local.options.pop("nodes", None)


def _words(text: str) -> list[str]:
    """Split a list as Proxmox does: at commas, semicolons and blanks."""
    for sign in ",;\0\t":
        text = text.replace(sign, " ")
    return text.split()
