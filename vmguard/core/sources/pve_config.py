"""Read VMID.conf as Proxmox does: ``parse_config(data, "100")``. Pure: nothing is opened here.

Only the main section (all lines before the first ``[``) decides what a start opens. [PENDING], snapshots and special
sections are recognised and otherwise ignored (qemu-server QemuServer.pm, parse_vm_config).

Proxmox drops a drive with a value that it does not take, and starts the VM without it. Which values it takes differs
from version to version, and locking one file too many does no harm while missing one destroys it. So no drive is
dropped whose file can be read: with a wrong value, an option that this table does not know, a number beyond the bus's,
a path outside /dev, or in an unknown section (Proxmox VE 9 skips it, 8 only its header) it is ``unsure``: reported, and
if its file is missing, the VM may start. It does not undo a line of the same key before it: both files are locked.

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

# Types of a drive's options: a tuple of allowed words, or one of these. An integer may have a sign, a decimal an
# exponent, too (pve-common JSONSchema.pm, is_integer, is_number); a count is an integer of at least 1, many of 2.
_BOOL, _INTEGER, _COUNT, _MANY, _DECIMAL = "bool", "integer", "count", "many", "decimal"
_SIZE, _WWN, _TEXT, _FILE = "size", "wwn", "text", "file"
_UNITS = ("KiB", "MiB", "GiB", "TiB", "K", "M", "G", "T")

_THROTTLES = {
    f"{stem}{middle}{end}": _COUNT if end.endswith("length") else _DECIMAL if stem == "mbps" else _INTEGER
    for stem in ("bps", "iops", "mbps")
    for middle in ("", "_rd", "_wr")
    for end in ("", "_max", "_max_length", "_length")
    if not (end == "_length" and (stem == "mbps" or not middle))
}
_DISK: dict[str, str | tuple[str, ...]] = {
    "file": _FILE,
    "aio": ("native", "threads", "io_uring"),
    "backup": _BOOL,
    "cache": ("none", "writethrough", "writeback", "unsafe", "directsync"),
    "cyls": _INTEGER,
    "detect_zeroes": _BOOL,
    "discard": ("ignore", "on"),
    "format": _IMAGE_FORMATS,
    "heads": _INTEGER,
    "import-from": _TEXT,
    "media": ("cdrom", "disk"),
    "replicate": _BOOL,
    "rerror": ("ignore", "report", "stop"),
    "secs": _INTEGER,
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
    "scsi": {"iothread": _BOOL, "product": _TEXT, "queues": _MANY, "ro": _BOOL, "scsiblock": _BOOL, "ssd": _BOOL,
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
#: pairs of options that exclude each other, unless one of them is 0
_EXCLUDE = (("mbps_rd", "mbps"), ("mbps_wr", "mbps"), ("iops_rd", "iops"), ("iops_wr", "iops"), ("bps", "mbps"),
            ("bps_rd", "mbps_rd"), ("bps_wr", "mbps_wr"))  # fmt: skip


class Drive:
    """One drive of the main section that Proxmox keeps, or may keep."""

    __slots__ = ("bus", "doubt", "file", "key", "options", "unsure")

    def __init__(
        self, key: str, bus: str, file: str, options: dict[str, str], unsure: bool = False, doubt: str = ""
    ) -> None:
        self.key = key
        self.bus = bus
        #: ``store:volume``, an absolute path, ``none`` or ``cdrom``
        self.file = file
        #: those that have a meaning here and a value that is one
        self.options = options
        #: Proxmox may drop it (see above)
        self.unsure = unsure or bool(doubt)
        #: why, when people should know
        self.doubt = doubt

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


class VmConfig:
    """A VM's configuration, as far as its storage is concerned."""

    __slots__ = ("beside", "drives", "dropped", "options", "pending", "snapshot_hooks", "snapshots", "vmid")

    def __init__(self, vmid: str) -> None:
        self.vmid = vmid
        self.drives: dict[str, Drive] = {}
        self.beside: list[Drive] = []  #: unsure drives whose key has another line before them
        #: other keys of the main section (name, template, args, lock, vmstate, hookscript, virtiofs0...)
        self.options: dict[str, str] = {}
        #: (key, reason) of what Proxmox ignores, or may ignore, with a warning
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
        if text[0] == "[" and text.find("]") == len(text) - 1:
            section = _section(text[1:-1], section, config)
        elif text[0] == "#":
            continue
        elif section in ("", "pending", "unknown"):
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


def _section(name: str, before: str, config: VmConfig) -> str:
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
        if before in ("", "unknown"):
            return "unknown"
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
    name = "ide2" if key == CDROM_DEVICE else key
    bus = name.rstrip("0123456789")
    if bus not in BUSES:
        if section == "":
            _option(key, value, config)
        return
    beyond = "" if _bus(name) else "Proxmox has no drive of this number"
    try:
        drive = _drive(name, bus, value, config.vmid, "Proxmox may skip its section" if section else beyond)
    except ValueError as problem:
        config.dropped.append((key, f"Proxmox ignores this value: {problem}"))
        return
    if drive.doubt:
        config.dropped.append((key, drive.doubt))
    if drive.unsure and drive.key in config.drives:
        config.beside.append(drive)
        return
    config.drives[drive.key] = drive
    config.beside = [other for other in config.beside if other.key != drive.key]


def _option(key: str, value: str, config: VmConfig) -> None:
    """Take a key that is no drive's. A value that Proxmox does not take does not undo the one before it."""
    store, _, volume = value.partition(":")
    no_volume = not (is_store_id(store) and volume)
    if (key == "template" and boolean(value) is None) or (key == "hookscript" and no_volume):
        config.dropped.append((key, f"Proxmox ignores this value: {value[:40]!r}"))
    else:
        config.options[key] = value


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


def _drive(key: str, bus: str, value: str, vmid: str, beyond: str = "") -> Drive:
    """Read one drive; what Proxmox does not take makes it unsure. Raises ValueError when it names no file."""
    known = _options(bus)
    options, problem = read_properties(value, "file", {"volume": "file"})
    named = options.pop("file", "")
    file = named.strip(_SPACE)
    if not file:
        raise ValueError(problem or "it names no file")
    problem = problem or ("blanks stand around its file" if file != named else "")
    problem = problem or ("it holds a line break" if "\r" in value else "")
    good: dict[str, str] = {}
    newer = ""
    for name, text in options.items():
        kind = known.get(name)
        if kind is not None and _is_value(text, kind):
            good[name] = text
        elif kind is not None:
            problem = problem or f"{name}={text[:40]!r} is not a value of that option"
        elif name in _DISK or any(name in more for more in (*_MORE.values(), *_SPECIAL.values())):
            problem = problem or f"{bus} drives have no option {name!r}"
        elif not _KEY.issuperset(name):
            problem = problem or f"there is no option {name[:40]!r}"
        else:
            newer = newer or f"the option {name!r} is not known here: Proxmox may ignore this drive"
    problem = problem or _bad_combination(bus, good)
    file, sure = _volume_id(file, vmid, good.get("media") == "cdrom")
    doubt = beyond or (f"Proxmox ignores this value: {problem}" if problem else newer)
    return Drive(key, bus, file, good, not sure, doubt)


def read_properties(value: str, default: str, aliases: dict[str, str]) -> tuple[dict[str, str], str]:
    """Read a property string (pve-common JSONSchema.pm, parse_property_string).

    Return the properties, the first of each name, and why Proxmox refuses the whole string, empty when it does not.
    ``default`` is the key that may be omitted, anywhere in the list.
    """
    found: dict[str, str] = {}
    problem = ""
    for part in value.split(","):
        if not part.strip(_SPACE):
            continue
        key, sign, text = part.partition("=")
        if not sign:
            key, text = default, part
        elif not key or not text:
            problem = problem or f"{part[:40]!r} is neither a value nor key=value"
            continue
        name = aliases.get(key, key)
        if name == key and name in found:  # an alias wins over what stands before it
            problem = problem or f"{name!r} stands there twice"
        else:
            found[name] = text
    return found, problem


def _is_value(text: str, kind: str | tuple[str, ...]) -> bool:
    if isinstance(kind, tuple):
        return text in kind
    if kind == _BOOL:
        return boolean(text) is not None
    if kind in (_INTEGER, _COUNT, _MANY):
        return _is_integer(text) and (kind == _INTEGER or int(text[:20]) >= (1 if kind == _COUNT else 2))
    if kind == _DECIMAL:
        return _is_decimal(text)
    if kind == _SIZE:
        bare = next((text.removesuffix(unit) for unit in _UNITS if text.endswith(unit)), text)
        whole, dot, rest = bare.partition(".")
        return _is_digits(whole) and (not dot or _is_digits(rest))
    if kind == _WWN:
        return text[:2] == "0x" and len(text) == 18 and not text[2:].strip("0123456789abcdefABCDEF")
    return True


def _is_digits(text: str) -> bool:
    return bool(text) and _DIGITS.issuperset(text)


def _is_integer(text: str) -> bool:
    return _is_digits(text[1:] if text[:1] in ("+", "-") else text)


def _is_decimal(text: str) -> bool:
    """Return whether a text is a number as Proxmox reads it: ``3``, ``+3.``, ``.5``, ``1.5e-3``."""
    number, mark, exponent = text.replace("E", "e").partition("e")
    whole, _, rest = (number[1:] if number[:1] in ("+", "-") else number).partition(".")
    digits = whole + rest
    return _is_digits(digits) and (not mark or _is_integer(exponent))


def _bad_combination(bus: str, options: dict[str, str]) -> str:
    """Return why Proxmox drops a drive whose options are all right by themselves; empty when it does not."""
    for one, other in _EXCLUDE:
        if options.get(one, "0") != "0" and options.get(other, "0") != "0":
            return f"{one} and {other} exclude each other"
    if options.get("media") != "cdrom":
        return ""
    for name in ("snapshot", "trans", "format", "heads", "secs", "cyls"):
        if options.get(name) and not (name == "snapshot" and boolean(options[name]) is False):
            return f"a cdrom has no {name}"
    return "virtio has no cdrom" if bus == "virtio" else ""


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
