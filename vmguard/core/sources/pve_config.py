"""Read VMID.conf as Proxmox does: ``parse_config(data, "100")``. Pure: nothing is opened here.

Only the main section (all lines before the first ``[``) decides what a start opens. [PENDING], snapshots and special
sections are recognised and otherwise ignored (qemu-server QemuServer.pm, parse_vm_config). A value that Proxmox drops
with a warning is dropped here, too, and reported: the VM starts without that drive.

Two things are kept that Proxmox may drop, because locking one file too many does no harm and missing one destroys it:
a drive with an option that this table does not know (a newer Proxmox may), and a path outside /dev. Both count as
``unsure``: if such a file is missing, the VM may start all the same.

The hook reads this on its hot path: no ``re``, no ``dataclasses``.
"""

from __future__ import annotations

from vmguard.errors import BadInput

#: largest file in /etc/pve (pmxcfs)
MAX_BYTES = 1 << 20

#: bus -> number of its drives (QemuServer/Drive.pm)
BUSES = {"ide": 4, "sata": 6, "scsi": 31, "virtio": 16, "efidisk": 1, "tpmstate": 1, "unused": 256}
NONE, CDROM_DEVICE = "none", "cdrom"

_SPACE = " \t\r\f\v"
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz")
_KEY = _LOWER | frozenset("_-")
_DIGITS = frozenset("0123456789")
_SECTION = _KEY | _DIGITS
_STORE = _LOWER | _DIGITS | frozenset("-_.")
_IMAGE_FORMATS = ("cloop", "cow", "qcow", "qcow2", "qed", "raw", "vmdk", "subvol")
_TRUE, _FALSE = ("1", "on", "yes", "true"), ("0", "off", "no", "false")

# Types of a drive's options: a tuple of allowed words, or one of these.
_BOOL, _NUMBER, _DECIMAL, _SIZE, _WWN, _TEXT, _FILE = "bool", "number", "decimal", "size", "wwn", "text", "file"

_THROTTLES = {
    name: _DECIMAL if name.startswith("mbps") else _NUMBER
    for stem in ("bps", "iops", "mbps")
    for middle in ("", "_rd", "_wr")
    for name in (f"{stem}{middle}", f"{stem}{middle}_max", f"{stem}{middle}_max_length")
}
_DISK: dict[str, str | tuple[str, ...]] = {
    "file": _FILE,
    "aio": ("native", "threads", "io_uring"),
    "backup": _BOOL,
    "cache": ("none", "writethrough", "writeback", "unsafe", "directsync"),
    "cyls": _NUMBER,
    "detect_zeroes": _BOOL,
    "discard": ("ignore", "on"),
    "format": _IMAGE_FORMATS,
    "heads": _NUMBER,
    "import-from": _TEXT,
    "media": ("cdrom", "disk"),
    "replicate": _BOOL,
    "rerror": ("ignore", "report", "stop"),
    "secs": _NUMBER,
    "serial": _TEXT,
    "shared": _BOOL,
    "size": _SIZE,
    "snapshot": _BOOL,
    "trans": ("none", "lba", "auto"),
    "werror": ("enospc", "ignore", "report", "stop"),
    **_THROTTLES,
}
_MORE: dict[str, dict[str, str | tuple[str, ...]]] = {
    "ide": {"model": _TEXT, "ssd": _BOOL, "wwn": _WWN},
    "sata": {"ssd": _BOOL, "wwn": _WWN},
    "scsi": {"iothread": _BOOL, "product": _TEXT, "queues": _NUMBER, "ro": _BOOL, "scsiblock": _BOOL, "ssd": _BOOL,
             "vendor": _TEXT, "wwn": _WWN},
    "virtio": {"iothread": _BOOL, "ro": _BOOL},
}  # fmt: skip
_SPECIAL: dict[str, dict[str, str | tuple[str, ...]]] = {
    "efidisk": {"file": _FILE, "efitype": ("2m", "4m"), "format": _IMAGE_FORMATS, "import-from": _TEXT,
                "ms-cert": _TEXT, "pre-enrolled-keys": _BOOL, "size": _SIZE},
    "tpmstate": {"file": _FILE, "format": _IMAGE_FORMATS, "import-from": _TEXT, "size": _SIZE,
                 "version": ("v1.2", "v2.0")},
    "unused": {"file": _FILE},
}  # fmt: skip
#: pairs of options that exclude each other
_EXCLUDE = (("mbps_rd", "mbps"), ("mbps_wr", "mbps"), ("iops_rd", "iops"), ("iops_wr", "iops"),
            ("bps", "mbps"), ("bps_rd", "mbps_rd"), ("bps_wr", "mbps_wr"))  # fmt: skip


class Drive:
    """One drive of the main section that Proxmox keeps."""

    __slots__ = ("bus", "file", "key", "options", "unsure")

    def __init__(self, key: str, bus: str, file: str, options: dict[str, str], unsure: bool) -> None:
        self.key = key
        self.bus = bus
        #: ``store:volume``, an absolute path, ``none`` or ``cdrom``
        self.file = file
        self.options = options
        #: Proxmox may drop it (see above)
        self.unsure = unsure

    @property
    def is_cdrom(self) -> bool:
        """Whether it is a CD drive."""
        return self.options.get("media") == "cdrom"

    @property
    def is_cloudinit(self) -> bool:
        """Whether the file ends in ``[:/](vm-N-)?cloudinit(.FORMAT)?``."""
        head, _, last = self.file.replace(":", "/").rpartition("/")
        stem, dot, suffix = last.partition(".")
        if not head or (dot and suffix not in _IMAGE_FORMATS):
            return False
        if stem.startswith("vm-") and stem.endswith("-cloudinit"):
            return stem[3:-10].isdigit()
        return stem == "cloudinit"

    @property
    def read_only(self) -> bool:
        """Whether the guest may not write to it."""
        return boolean(self.options.get("ro", "")) is True

    def __repr__(self) -> str:
        return f"Drive({self.key}: {self.file!r}, {self.options})"


class VmConfig:
    """A VM's configuration, as far as its storage is concerned."""

    __slots__ = ("drives", "dropped", "options", "pending", "snapshot_hooks", "snapshots", "vmid")

    def __init__(self, vmid: str) -> None:
        self.vmid = vmid
        self.drives: dict[str, Drive] = {}
        #: other keys of the main section (name, template, args, lock, vmstate, hookscript, virtiofs0...)
        self.options: dict[str, str] = {}
        #: (key, reason) of what Proxmox ignores with a warning
        self.dropped: list[tuple[str, str]] = []
        #: keys of drives whose change takes effect at the next start
        self.pending: list[str] = []
        self.snapshots: list[str] = []
        #: snapshot -> its hookscript, empty for none: a rollback brings it back
        self.snapshot_hooks: dict[str, str] = {}

    @property
    def name(self) -> str:
        """The VM's name; its number when it has none."""
        return self.options.get("name") or self.vmid

    @property
    def is_template(self) -> bool:
        """Whether it is a template, whose images are only read."""
        return boolean(self.options.get("template", "")) is True


def parse_config(data: bytes, vmid: str) -> VmConfig:
    """Read a configuration. Raises BadInput when it cannot be one; single wrong lines are dropped, as Proxmox does."""
    if not is_vmid(vmid):
        raise BadInput(f"{vmid[:80]!r} is not a VMID", "it is a number from 100 to 999999999")
    if len(data) > MAX_BYTES:
        raise BadInput(f"the configuration of VM {vmid} is larger than {MAX_BYTES} bytes")
    if b"\0" in data:
        raise BadInput(f"the configuration of VM {vmid} is no text: it holds zero bytes")
    config = VmConfig(vmid)
    section = ""
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        text = line.rstrip(_SPACE)
        if not text.strip(_SPACE):
            continue
        if text[0] == "[" and text[-1] == "]":
            section = _section(text[1:-1], config)
        elif text[0] == "#":
            continue
        elif section in ("", "pending"):
            _line(text, section, config)
        elif section == "snapshot" and text.startswith("hookscript:"):
            config.snapshot_hooks[config.snapshots[-1]] = text.partition(":")[2].strip(_SPACE)
    return config


def is_vmid(text: str) -> bool:
    """Return whether a text is the number of a VM: 100 to 999999999."""
    return 3 <= len(text) <= 9 and text[0] in "123456789" and _DIGITS.issuperset(text)


def boolean(text: str) -> bool | None:
    """Read a boolean as Proxmox does; None when the text is not one."""
    word = text.lower()
    return True if word in _TRUE else False if word in _FALSE else None


def _section(name: str, config: VmConfig) -> str:
    """Return the kind of the section that begins. Only the main one, which has no name, decides what a start opens."""
    low = name.lower()
    if low == "pending":
        return low
    if len(low) > 1 and low[0] in _LOWER and _SECTION.issuperset(low):
        config.snapshots.append(name)
        config.snapshot_hooks[name] = ""
        return "snapshot"
    if not low.startswith("special:"):
        config.dropped.append((f"[{name}]", "a section that Proxmox does not know"))
    return "other"


def _line(text: str, section: str, config: VmConfig) -> None:
    key, colon, value = text.partition(":")
    value = value.strip(_SPACE)
    if not colon or not value or not _is_key(key):
        if section == "":
            config.dropped.append((text.split(":")[0][:40], "Proxmox cannot parse this line"))
        return
    if section == "pending":
        if _bus(key) or key == CDROM_DEVICE:
            config.pending.append(key)
        elif key == "delete":
            config.pending += [word for word in value.replace(";", ",").replace(" ", ",").split(",") if _bus(word)]
        return
    bus = "ide" if key == CDROM_DEVICE else _bus(key)
    if not bus:
        if key.rstrip("0123456789") in BUSES:
            config.dropped.append((key, "Proxmox has no drive of this number"))
        else:
            config.options[key] = value
        return
    try:
        drive = _drive("ide2" if key == CDROM_DEVICE else key, bus, value, config.vmid)
    except ValueError as problem:
        config.dropped.append((key, f"Proxmox ignores this value: {problem}"))
        return
    config.drives[drive.key] = drive
    if drive.unsure and (unknown := [name for name in drive.options if name not in _options(bus)]):
        config.dropped.append((key, f"the option {unknown[0]!r} is not known here: Proxmox may ignore this drive"))


def _is_key(key: str) -> bool:
    """Return whether a text is ``[a-z][a-z_-]*\\d*``."""
    stem = key.rstrip("0123456789")
    return bool(stem) and stem[0] in _LOWER and _KEY.issuperset(stem)


def _bus(key: str) -> str:
    """Return the bus of a drive's key; empty when the key is not a drive's."""
    stem = key.rstrip("0123456789")
    number = key[len(stem) :]
    if stem in BUSES and number and len(number) < 4 and number == str(int(number)) and int(number) < BUSES[stem]:
        return stem
    return ""


# --- one drive ------------------------------------------------------------------------------------------------------


def _options(bus: str) -> dict[str, str | tuple[str, ...]]:
    return _SPECIAL[bus] if bus in _SPECIAL else {**_DISK, **_MORE[bus]}


def _drive(key: str, bus: str, value: str, vmid: str) -> Drive:
    """Read one drive. Raises ValueError with the reason why Proxmox drops it."""
    known = _options(bus)
    options = parse_properties(value, "file", {"volume": "file"})
    unsure = False
    for name, text in options.items():
        kind = known.get(name)
        if kind is not None:
            _check(name, text, kind)
        elif name in _DISK or any(name in more for more in (*_MORE.values(), *_SPECIAL.values())):
            raise ValueError(f"{bus} drives have no option {name!r}")
        elif not _KEY.issuperset(name):
            raise ValueError(f"there is no option {name[:40]!r}")
        else:
            unsure = True
    file = options.pop("file", "")
    if not file:
        raise ValueError("it names no file")
    _check_combination(bus, options)
    file, sure = _volume_id(file, vmid, options.get("media") == "cdrom")
    return Drive(key, bus, file, options, unsure or not sure)


def parse_properties(value: str, default: str, aliases: dict[str, str]) -> dict[str, str]:
    """Read a property string (pve-common JSONSchema.pm, parse_property_string). Raises ValueError.

    ``default`` is the key that may be omitted, anywhere in the list.
    """
    found: dict[str, str] = {}
    bare = False
    for part in value.split(","):
        if not part.strip(_SPACE):
            continue
        key, sign, text = part.partition("=")
        if sign:
            if not key or not text:
                raise ValueError(f"{part[:40]!r} is neither a value nor key=value")
            if key in found:
                raise ValueError(f"{key!r} stands there twice")
            found[aliases.get(key, key)] = text
        elif bare or default in found:
            raise ValueError(f"{default!r} stands there twice")
        else:
            bare = True
            found[default] = part
    return found


def _check(name: str, text: str, kind: str | tuple[str, ...]) -> None:
    if isinstance(kind, tuple):
        good = text in kind
    elif kind == _BOOL:
        good = boolean(text) is not None
    elif kind == _NUMBER:
        good = _is_number(text)
    elif kind == _DECIMAL:
        whole, dot, rest = text.partition(".")
        good = _is_number(whole) and (not dot or _is_number(rest))
    elif kind == _SIZE:
        whole, dot, rest = text.rstrip("KMGT").partition(".")
        good = len(text) - len(text.rstrip("KMGT")) <= 1 and _is_number(whole) and (not dot or _is_number(rest))
    elif kind == _WWN:
        good = text[:2] == "0x" and len(text) == 18 and not text[2:].strip("0123456789abcdefABCDEF")
    else:
        good = True
    if not good:
        raise ValueError(f"{name}={text[:40]!r} is not a value of that option")


def _is_number(text: str) -> bool:
    return bool(text) and _DIGITS.issuperset(text)


def _check_combination(bus: str, options: dict[str, str]) -> None:
    for one, other in _EXCLUDE:
        if one in options and other in options:
            raise ValueError(f"{one} and {other} exclude each other")
    if options.get("media") != "cdrom":
        return
    for name in ("snapshot", "trans", "format", "heads", "secs", "cyls"):
        if options.get(name) and not (name == "snapshot" and boolean(options[name]) is False):
            raise ValueError(f"a cdrom has no {name}")
    if bus == "virtio":
        raise ValueError("virtio has no cdrom")


def _volume_id(file: str, vmid: str, is_cdrom: bool) -> tuple[str, bool]:
    """Return the file in its full form, and whether Proxmox accepts it for certain. Raises ValueError."""
    if file in (NONE, CDROM_DEVICE) or file.startswith("/dev/"):
        return file, True
    if file.startswith("/"):
        return file, False
    store, colon, volume = file.partition(":")
    if colon:
        if not is_store_id(store) or not volume:
            raise ValueError(f"{file[:80]!r} is no volume id")
        return file, True
    if "/" in file:
        raise ValueError(f"{file[:80]!r} is neither a volume id nor an absolute path")
    return (f"local:iso/{file}" if is_cdrom else f"local:{vmid}/{file}"), False


def is_store_id(text: str) -> bool:
    """Return whether a text is ``[a-z][a-z0-9._-]*[a-z0-9]``, upper case allowed."""
    low = text.lower()
    return len(low) > 1 and low[0] in _LOWER and low[-1] not in "-_." and _STORE.issuperset(low)
