"""Read the storage of a VM from libvirt's domain XML: ``parse_domain(xml)``. Pure: nothing is opened here.

In the XML                                      becomes
<disk type='file'>, floppy too                  disk, exclusive
  with <readonly/>, or device='cdrom'           disk, shared: libvirt makes every cdrom read-only
  with <shareable/>                             disk, shared: the guests coordinate their writes themselves
  with <transient shareBacking='yes'/>          disk, shared: libvirt writes to an overlay of its own; else exclusive
  with <slices>                                 the whole file: QEMU's own locks do not know slices either
  with fdgroup=                                 unguarded: another program opened it and passes the descriptor
  without a source (empty drive)                nothing
<disk type='volume'>                            as file, once the pool is known
<disk type='block|network|dir|nvme|...'>        unguarded; a file further down its chain is guarded
<driver type=> absent                           raw, as libvirt does: its content is never probed
<backingStore>                                  backing, shared; an empty one ends the chain; none: read the header
<dataStore>                                     data file, in the mode of its image, wherever that image lies
<mirror>                                        mirror, exclusive: a running block job writes to it
<os><nvram>, <varstore>                         nvram, exclusive; its template is only copied from, so not locked
<os><loader>                                    loader, shared; exclusive for a pflash that does not say readonly='yes',
                                                unless libvirt chooses the firmware (<os firmware=>): read-only then
<os><kernel>, <initrd>, <dtb>, <acpi>           nothing: QEMU reads them once at start and never writes
<tpm> emulator with <source type='file'>        tpm-state, exclusive
  any other emulator                            unguarded: swtpm replaces the files in its directory at each write, so
                                                a lock on one of them would be on a deleted file; swtpm locks its
                                                directory itself, and only the holder of the disks runs it
<memory model='nvdimm|virtio-pmem'> with path   memory, exclusive; shared with <readonly/> or access='private'
<pstore>                                        memory, exclusive
<memoryBacking>                                 nothing: the file does not outlive the VM
<filesystem>, <hostdev>                         unguarded: shared by nature; the host's device
<serial>, <console>, <log> to a file            nothing: a log that is appended to, not the guest's storage
<qemu:commandline> that adds storage            unguarded: what it opens cannot be known
"""

from __future__ import annotations

from vmguard.core.locks.plan import (
    BACKING,
    BLOCK,
    DATA_FILE,
    DIRECTORY,
    DISK,
    EXCLUSIVE,
    LOADER,
    MEMORY,
    MIRROR,
    MISSING,
    NETWORK,
    NVRAM,
    OTHER,
    SHARED,
    TPM_STATE,
    Unguarded,
    on_block_device,
)
from vmguard.core.sources.xml_tree import Node, read_tree
from vmguard.core.words import printable
from vmguard.errors import BadInput

FILE = "file"
VOLUME = "volume"

#: startup policies with which a VM starts without the disk
OPTIONAL_POLICIES = ("optional", "requisite")

_DEVICES = frozenset({"disk", "tpm", "memory", "pstore", "filesystem", "hostdev"})
_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
_COMMANDLINE = f"{_QEMU} commandline"
_WANTED = {"name": None, "uuid": None, "os": None, "devices": _DEVICES, _COMMANDLINE: None}
#: options of QEMU's that open a file, share a folder, or read other options from a file
_STORAGE_OPTIONS = frozenset(
    ("drive", "blockdev", "hda", "hdb", "hdc", "hdd", "cdrom", "fda", "fdb", "sd", "mtdblock", "pflash", "mem-path",
     "fsdev", "virtfs", "readconfig")
)  # fmt: skip


class Source:
    """One place where a VM writes or reads data, as the XML or an image header names it.

    ``kind`` is FILE (with ``path``), VOLUME (with ``pool``; ``path`` is the volume's name) or a kind of Unguarded
    (``path`` is then the reason in words).
    """

    __slots__ = ("backing", "data_store", "ends", "format", "home", "kind", "late", "mode", "offset", "path", "policy",
                 "pool", "role", "what")  # fmt: skip

    def __init__(
        self, what: str, kind: str, path: str, mode: str, role: str, format: str | None = "raw", pool: str = ""
    ) -> None:
        #: for people: ``disk vda``, ``backing of /srv/a.qcow2``
        self.what = printable(what)
        self.kind = kind
        self.path = path
        self.pool = pool
        self.mode = mode
        self.role = role
        #: the declared format; None: none is declared, the content decides
        self.format = format
        self.policy = "mandatory"
        #: created by libvirt or QEMU at the VM's first start, so it may be missing before
        self.late = False
        #: offset in the file at which the image begins (<slices>)
        self.offset = 0
        #: the next image of the chain, or (``ends``) that there is none; with neither the header decides
        self.backing: Source | None = None
        self.ends = False
        self.data_store: Source | None = None
        self.home = ""  #: the folder with all that may belong to it; empty: that of the file itself

    @property
    def is_optional(self) -> bool:
        return self.policy in OPTIONAL_POLICIES

    def __repr__(self) -> str:
        return f"Source({self.what!r}, {self.kind}, {self.path!r}, {self.mode}, {self.role}, {self.format})"


class Domain:
    """A VM: its name, its UUID, its sources, and the storage that no lock can guard."""

    __slots__ = ("name", "probes", "sources", "unguarded", "uuid")

    def __init__(self, name: str, uuid: str, probes: bool = False) -> None:
        self.name = name
        self.uuid = uuid
        #: images of undeclared format are probed by QEMU (Proxmox), not refused (libvirt)
        self.probes = probes
        self.sources: list[Source] = []
        self.unguarded: list[Unguarded] = []


def parse_domain(xml: bytes, defined: bool = True) -> Domain:
    """Read the XML that libvirt passes to a hook: ``<domain>``, or the ``<domstatus>`` around one. Raises BadInput.

    One that is not ``defined`` yet may lack name and uuid: they are empty then.
    """
    root = read_tree(xml, "domain", _WANTED, wrappers=("domstatus",))
    domain = Domain(_name(root, defined), _uuid(root, defined))
    for os_node in root.all("os"):
        _read_os(os_node, domain)
    for devices in root.all("devices"):
        for node in devices.children:
            _READERS[node.tag](node, domain)
    _read_commandline(root, domain)
    return domain


def _name(root: Node, wanted: bool) -> str:
    node = root.child("name")
    name = "" if node is None or not node.text.strip() else node.text
    if wanted and not name:
        raise BadInput("domain XML names no VM: <name> is missing or empty")
    return name


def _uuid(root: Node, wanted: bool) -> str:
    node = root.child("uuid")
    if node is None or not node.text.strip():
        if not wanted:
            return ""
        raise BadInput("domain XML holds no <uuid>", "libvirt gives every VM one: virsh dumpxml VM shows it")
    digits = node.text.strip().replace("-", "").lower()
    if len(digits) != 32 or not all(digit in "0123456789abcdef" for digit in digits):
        raise BadInput(f"domain XML: {node.text.strip()[:80]!r} is not a UUID")
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


# --- where the data is ----------------------------------------------------------------------------------------------


def _source(node: Node, element: Node | None, what: str, mode: str, role: str, format: str | None) -> Source | None:
    """Return what a ``<source>`` names, None for an empty drive. ``node`` has the type, ``element`` the place."""
    if element is None:
        return None
    kind, place, pool = _locate(node.get("type", "file"), element, what)
    if not place:
        return None
    source = Source(what, kind, place, mode, role, format, pool)
    source.policy = element.get("startupPolicy", "mandatory")
    source.offset = _offset(element, what)
    _read_data_store(node, element, source)
    return source


def _locate(kind: str, element: Node, what: str) -> tuple[str, str, str]:
    """Return kind, place and pool of a ``<source>``; the place is empty when nothing is inserted."""
    if kind == "file":
        path = element.get("file")
        if element.get("fdgroup"):
            return OTHER, f"{path}: its descriptor is passed in by another program (fdgroup)", ""
        return FILE, _absolute(path, what), ""
    if kind == "volume":
        return VOLUME, element.get("volume"), element.get("pool")
    if kind == "block":
        device = element.get("dev")
        return BLOCK, device and on_block_device(device), ""
    if kind == "dir":
        path = element.get("dir")
        return DIRECTORY, path and f"{path} is a directory that QEMU shows as a FAT disk: no single file to lock", ""
    if kind == "network":
        return NETWORK, _network(element), ""
    if kind == "nvme":
        return OTHER, "an NVMe device of this host: no file to lock", ""
    return OTHER, f"storage of type {kind!r} belongs to another process: no file to lock", ""


def _network(element: Node) -> str:
    protocol, name = element.get("protocol"), element.get("name")
    if not protocol and not name:
        return ""
    hosts = ", ".join(host.get("name") or host.get("socket") for host in element.all("host"))
    place, sign, _ = name.partition(":" if protocol == "rbd" else "?")  # behind it: options, a query, so maybe a key
    shown = place + (sign and f"{sign}***")
    return f"{protocol} storage {shown!r}{' on ' + hosts if hosts else ''} is reached over the network: no file to lock"


def _absolute(path: str, what: str) -> str:
    if path and not path.startswith("/"):
        raise BadInput(f"{what}: the path {path!r} is not absolute")
    return path


def _offset(element: Node, what: str) -> int:
    """Return where a slice begins. The lock covers the whole file: users of other slices must wait all the same."""
    for piece in element.all("slices/slice"):
        text = piece.get("offset", "0")
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise BadInput(f"{what}: the slice offset {text[:80]!r} is not a number")
        return int(text)
    return 0


def _read_data_store(node: Node, element: Node, source: Source) -> None:
    store = element.child("dataStore") or node.child("dataStore")
    if store is not None:
        what = f"data file of {source.path if source.kind == FILE else source.what}"
        source.data_store = _source(store, store.child("source"), what, source.mode, DATA_FILE, "raw")


def _read_chain(node: Node, source: Source) -> None:
    """Follow nested ``<backingStore>`` elements, in a loop because chains of hundreds are legal."""
    while (store := node.child("backingStore")) is not None:
        what = f"backing of {source.path}" if source.kind == FILE else f"backing of {source.what}"
        format = store.value("format", "type") or None
        source.backing = _source(store, store.child("source"), what, SHARED, BACKING, format)
        if source.backing is None:
            source.ends = True
            return
        node, source = store, source.backing


# --- devices --------------------------------------------------------------------------------------------------------


def _read_disk(node: Node, domain: Domain) -> None:
    device = node.get("device", "disk")
    what = f"{device} {node.value('target', 'dev', '?')}"
    shared = device == "cdrom" or node.value("transient", "shareBacking") == "yes"
    shared = shared or node.child("readonly") is not None or node.child("shareable") is not None
    mode = SHARED if shared else EXCLUSIVE
    source = _source(node, node.child("source"), what, mode, DISK, node.value("driver", "type") or "raw")
    if source is not None:
        _read_chain(node, source)
        domain.sources.append(source)
    for mirror in node.all("mirror"):
        _read_mirror(mirror, what, domain)


def _read_mirror(node: Node, disk: str, domain: Domain) -> None:
    what = f"mirror of {disk}"
    element = node.child("source")
    if element is None:  # the form before libvirt 1.2.6: <mirror file= format=>
        source = _source(Node("mirror", {}), node, what, EXCLUSIVE, MIRROR, node.get("format") or "raw")
    else:
        source = _source(node, element, what, EXCLUSIVE, MIRROR, node.value("format", "type") or "raw")
    if source is not None:
        _read_chain(node, source)
        domain.sources.append(source)


def _read_tpm(node: Node, domain: Domain) -> None:
    for backend in node.all("backend"):
        element, path = backend.child("source"), backend.value("source", "path")
        if backend.get("type") == "external":
            domain.unguarded.append(Unguarded("tpm", "its swtpm is run by somebody else, state included", OTHER))
        if backend.get("type") != "emulator":
            continue
        if element is not None and element.get("type") == "file" and path:
            domain.sources.append(_file("tpm", path, EXCLUSIVE, TPM_STATE))
            continue
        place = path or f"/var/lib/libvirt/swtpm/{domain.uuid}"
        reason = f"swtpm replaces the files in {place} as it writes and locks that directory itself"
        domain.unguarded.append(Unguarded("tpm", reason, DIRECTORY))


def _file(what: str, path: str, mode: str, role: str, format: str = "raw") -> Source:
    """Return a source that libvirt or QEMU creates when it is missing."""
    source = Source(what, FILE, _absolute(path, what), mode, role, format)
    source.late = True
    return source


def _read_memory(node: Node, domain: Domain) -> None:
    path = node.first("source/path")
    if path is None or not path.text:
        return
    private = node.first("target/readonly") is not None or node.get("access") == "private"
    what = f"memory {node.get('model', 'nvdimm')}"
    domain.sources.append(_file(what, path.text, SHARED if private else EXCLUSIVE, MEMORY))


def _read_pstore(node: Node, domain: Domain) -> None:
    path = node.child("path")
    if path is not None and path.text:
        domain.sources.append(_file("pstore", path.text, EXCLUSIVE, MEMORY))


def _read_filesystem(node: Node, domain: Domain) -> None:
    element = node.child("source")
    place = next(iter(element.attributes.values()), "") if element is not None else ""
    what = f"filesystem {node.value('target', 'dir', '?')}"
    domain.unguarded.append(Unguarded(what, f"{place or 'it'} is shared with the guest file by file", DIRECTORY))


def _read_hostdev(node: Node, domain: Domain) -> None:
    kind = node.get("type", "?")
    reason = f"a {kind} device of this host: no file to lock"
    if node.value("source", "protocol") == "iscsi":
        domain.unguarded.append(Unguarded("hostdev", "an iSCSI device: reached over the network", NETWORK))
    else:
        domain.unguarded.append(Unguarded("hostdev", reason, BLOCK if kind.startswith("scsi") else OTHER))


_READERS = {
    "disk": _read_disk,
    "tpm": _read_tpm,
    "memory": _read_memory,
    "pstore": _read_pstore,
    "filesystem": _read_filesystem,
    "hostdev": _read_hostdev,
}


# --- <os> and the raw command line ----------------------------------------------------------------------------------


def _read_os(node: Node, domain: Domain) -> None:
    _read_loader(node.child("loader"), node.get("firmware"), domain)
    nvram, store = node.child("nvram"), node.child("varstore")
    if nvram is not None:
        _read_nvram(nvram, domain)
    elif store is not None and store.get("path"):
        domain.sources.append(_file("nvram", store.get("path"), EXCLUSIVE, NVRAM))
    elif node.get("firmware") == "efi" and node.value("loader", "stateless") != "yes":
        domain.unguarded.append(_unnamed_nvram())


def _unnamed_nvram() -> Unguarded:
    return Unguarded("nvram", "libvirt chooses its file when the VM starts: the XML does not name it yet", MISSING)


def _read_loader(node: Node | None, firmware: str, domain: Domain) -> None:
    """Read the firmware. Stock firmware is one file for all VMs of a host; only a writable pflash is a VM's own.

    A pflash is writable unless it says otherwise; libvirt makes firmware that it chooses read-only (qemu_firmware.c).
    """
    if node is None or not node.text.strip():
        return
    own = node.get("type") == "pflash" and (node.get("readonly") or ("yes" if firmware else "no")) == "no"
    path = _absolute(node.text, "loader")
    mode = EXCLUSIVE if own else SHARED
    domain.sources.append(Source("loader", FILE, path, mode, LOADER, node.get("format") or "raw"))


def _read_nvram(node: Node, domain: Domain) -> None:
    format = node.get("format") or "raw"
    element = node.child("source")
    if element is not None:
        source = _source(node, element, "nvram", EXCLUSIVE, NVRAM, format)
        if source is not None:
            source.late = True
            domain.sources.append(source)
    elif node.text.strip():
        domain.sources.append(_file("nvram", node.text, EXCLUSIVE, NVRAM, format))
    else:
        domain.unguarded.append(_unnamed_nvram())


def _read_commandline(root: Node, domain: Domain) -> None:
    commandline = root.child(_COMMANDLINE)
    for argument in commandline.children if commandline is not None else ():
        value = argument.get("value")
        if opens_storage(value):
            reason = f"{value[:80]} is handed to QEMU as it is: what it opens is not known to libvirt either"
            domain.unguarded.append(Unguarded("qemu:commandline", reason, OTHER))
            return


def opens_storage(argument: str) -> bool:
    """Return whether an argument that is handed to QEMU as it is may make QEMU open a file."""
    option = argument.lstrip("-")
    return (option != argument and option in _STORAGE_OPTIONS) or "memory-backend-file" in argument
