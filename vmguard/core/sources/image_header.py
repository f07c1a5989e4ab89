"""Read which other files a disk image needs from its first bytes: ``parse_header(data, "qcow2", size)``. Pure.

A declared format is trusted, as libvirt and QEMU trust it: the content of a raw disk belongs to the guest, which
could write a header there that names any file of the host. So a raw image is never read, and only an image without a
declared format (``None``) is recognised by its magic.

The header usually fits in 4 KiB. When it does not, ``ImageHeader.needs`` says how many bytes from the start are
needed, and everything else in it is void. A damaged header raises PlanError without the file's name, which the caller
knows.

For formats whose image may need files that are not read here (VMDK with a parent or extents), ``note`` says so. The
image itself is guarded all the same, and every VM that uses those files also uses that image.
"""

from __future__ import annotations

from vmguard.errors import PlanError

#: enough for nearly every image, and one READ on NFS
USUAL_BYTES = 4096
#: the largest qcow2 cluster; a header and its extensions must fit into one
MAX_BYTES = 2 << 20

_MAX_NAME_BYTES = 1023
_MAX_EXTENSIONS = 1024

_QFI = b"QFI\xfb"
_QED = b"QED\0"

_END = 0
_BACKING_FORMAT = 0xE2792ACA
_EXTERNAL_DATA = 0x44415441
_DATA_FILE_BIT = 1 << 2
_KNOWN_BITS = (1 << 5) - 1
_QED_BACKING_BIT = 1 << 0
_QED_RAW_BACKING_BIT = 1 << 2
_QED_KNOWN_BITS = (1 << 3) - 1

#: formats without further files (QEMU refuses a VHD, VHDX or VDI that has a parent; ``file`` is the protocol alone)
COMPLETE = frozenset(
    ("raw", "file", "luks", "vdi", "vpc", "vhd", "vhdx", "iso", "fat", "dmg", "bochs", "cloop", "parallels")
)

_MAGIC = (
    (0, _QED, "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"conectix", "vpc"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
)


class ImageHeader:
    """The content of an image's header: its format, the image below it, the file that holds its data."""

    __slots__ = ("backing", "backing_format", "data_file", "format", "needs", "note")

    def __init__(self, format: str) -> None:
        self.format = format
        #: the name of the image below, as written in the header (see image_name.py); None for no such image
        self.backing: str | None = None
        #: its declared format; None: not declared
        self.backing_format: str | None = None
        self.data_file: str | None = None
        #: number of bytes needed when the given ones were too few (all else is void then), else 0
        self.needs = 0
        #: why this image may need files that are not known here; empty when all are known
        self.note = ""

    @property
    def leans_on_others(self) -> bool:
        return self.backing is not None or self.data_file is not None

    def __repr__(self) -> str:
        return f"Header({self.format}, {self.backing!r}, {self.backing_format!r}, {self.data_file!r}, {self.needs})"


class _More(Exception):
    """The given bytes end before the header does. The argument is the number of bytes needed."""


def parse_header(data: bytes, declared: str | None, size: int | None = None) -> ImageHeader:
    """Read a header. Raises PlanError when it is damaged.

    ``size`` is the file's size, to tell a truncated image from bytes that were not read yet.
    """
    kind = probe(data) if declared is None else declared
    parser = _PARSERS.get(kind)
    if parser is None:
        header = ImageHeader(kind)
        if kind not in COMPLETE:
            header.note = f"the format {kind!r} is not read here, so files that it leans on are not known"
        return header
    try:
        return parser(data)
    except _More as more:
        end = int(more.args[0])
        if end > MAX_BYTES:
            raise PlanError(f"its {kind} header is damaged: it reaches to byte {end}") from None
        if size is not None and end > size:
            raise PlanError(f"its {kind} header is truncated: it reaches to byte {end} of {size}") from None
        header = ImageHeader(kind)
        header.needs = end
        return header


def probe(data: bytes) -> str:
    """Return the format by magic; raw when none matches."""
    if data.startswith(_QFI) and len(data) >= 8:
        return "qcow" if data[4:8] == b"\0\0\0\1" else "qcow2"
    for offset, magic, kind in _MAGIC:
        if data.startswith(magic, offset):
            return kind
    return "raw"


def _take(data: bytes, start: int, length: int) -> bytes:
    if start + length > len(data):
        raise _More(start + length)
    return data[start : start + length]


def _big(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(_take(data, start, length), "big")


def _little(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(_take(data, start, length), "little")


def _check_magic(data: bytes, magic: bytes, kind: str) -> None:
    if _take(data, 0, len(magic)) != magic:
        found = probe(data)
        raise PlanError(
            f"it is declared as {kind} but holds {'no ' + kind if found == 'raw' else found} header",
            f"correct the format in the domain XML or in the image above it, or restore the image ({kind} expected)",
        )


def _name(raw: bytes, what: str) -> str:
    """Decode a file's name, which need not be UTF-8. A NUL is refused: QEMU would cut the name there."""
    return _checked(raw.decode("utf-8", "surrogateescape"), what)


def _format(raw: bytes) -> str:
    """Decode the name of a format."""
    try:
        return _checked(raw.decode("utf-8"), "backing format")
    except UnicodeDecodeError:
        raise PlanError(f"its header is damaged: the backing format {raw[:80]!r} is not UTF-8") from None


def _checked(text: str, what: str) -> str:
    if "\0" in text or not text:
        from vmguard.core.sources.secrets import public

        raise PlanError(f"its header is damaged: the {what} {public(text)[:80]!r} is empty or holds a NUL byte")
    return text


# --- qcow2, versions 2 and 3 (qemu: docs/interop/qcow2.txt) -----------------------------------------------------------


def _qcow2(data: bytes) -> ImageHeader:
    _check_magic(data, _QFI, "qcow2")
    version, backing_offset = _big(data, 4, 4), _big(data, 8, 8)
    backing_length, cluster_bits = _big(data, 16, 4), _big(data, 20, 4)
    if version not in (2, 3):
        raise PlanError(f"its qcow2 header is of version {version}: versions 2 and 3 are known")
    if not 9 <= cluster_bits <= 21:
        raise PlanError(f"its qcow2 header is damaged: clusters of 2^{cluster_bits} bytes")
    cluster = 1 << cluster_bits
    features, length = 0, 72
    if version == 3:
        features, length = _big(data, 72, 8), _big(data, 100, 4)
        if not 104 <= length <= cluster:
            raise PlanError(f"its qcow2 header is damaged: it claims to be {length} bytes long")
    header = ImageHeader("qcow2")
    _read_qcow2_extensions(data, length, backing_offset or cluster, header)
    _read_qcow2_backing(data, backing_offset, backing_length, cluster, header)
    if not features & _DATA_FILE_BIT:
        header.data_file = None  # like QEMU: without the feature bit the name means nothing
    elif header.data_file is None:
        raise PlanError("it keeps its data in an external file but does not name it")
    if features & ~_KNOWN_BITS:
        header.note = f"its qcow2 features {features & ~_KNOWN_BITS:#x} are newer than this reader"
    return header


def _read_qcow2_backing(data: bytes, offset: int, length: int, cluster: int, header: ImageHeader) -> None:
    if offset == 0:
        return
    if offset > cluster or length > min(_MAX_NAME_BYTES, cluster - offset):
        raise PlanError(f"its qcow2 header is damaged: a backing file name of {length} bytes at byte {offset}")
    if length:
        header.backing = _name(_take(data, offset, length), "backing file name")


def _read_qcow2_extensions(data: bytes, offset: int, end: int, header: ImageHeader) -> None:
    for _ in range(_MAX_EXTENSIONS):
        if offset >= end:
            return
        kind, length = _big(data, offset, 4), _big(data, offset + 4, 4)
        offset += 8
        if kind == _END:
            return
        if length > end - offset:
            raise PlanError(f"its qcow2 header is damaged: an extension of {length} bytes at byte {offset}")
        if kind == _BACKING_FORMAT:
            header.backing_format = _format(_take(data, offset, length)) if length else None
        elif kind == _EXTERNAL_DATA:
            header.data_file = _name(_take(data, offset, length), "data file name")
        offset += (length + 7) & ~7
    raise PlanError(f"its qcow2 header is damaged: more than {_MAX_EXTENSIONS} extensions")


# --- qcow (version 1), QED, VMDK --------------------------------------------------------------------------------------


def _qcow1(data: bytes) -> ImageHeader:
    _check_magic(data, _QFI, "qcow")
    version, offset, length = _big(data, 4, 4), _big(data, 8, 8), _big(data, 16, 4)
    if version != 1:
        raise PlanError(f"its qcow header is of version {version}: it is declared as qcow, which is version 1")
    header = ImageHeader("qcow")
    if offset:
        if length > _MAX_NAME_BYTES:
            raise PlanError(f"its qcow header is damaged: a backing file name of {length} bytes")
        if length:
            header.backing = _name(_take(data, offset, length), "backing file name")
    return header


def _qed(data: bytes) -> ImageHeader:
    _check_magic(data, _QED, "qed")
    features, offset, length = _little(data, 16, 8), _little(data, 56, 4), _little(data, 60, 4)
    header = ImageHeader("qed")
    if features & _QED_BACKING_BIT:
        if length > _MAX_NAME_BYTES:
            raise PlanError(f"its qed header is damaged: a backing file name of {length} bytes")
        if length:
            header.backing = _name(_take(data, offset, length), "backing file name")
        if features & _QED_RAW_BACKING_BIT:
            header.backing_format = "raw"
    if features & ~_QED_KNOWN_BITS:
        header.note = f"its qed features {features & ~_QED_KNOWN_BITS:#x} are newer than this reader"
    return header


def _vmdk(data: bytes) -> ImageHeader:
    """Read a VMDK. Only the common form is known to be complete: a single sparse file without a parent."""
    header = ImageHeader("vmdk")
    text = data[:USUAL_BYTES]
    if not (
        text.startswith(b"KDMV")
        and b"parentCID=ffffffff" in text
        and (b'createType="monolithicSparse"' in text or b'createType="streamOptimized"' in text)
    ):
        header.note = "a VMDK that may have a parent or extents: those files are not read here"
    return header


_PARSERS = {"qcow2": _qcow2, "qcow": _qcow1, "qed": _qed, "vmdk": _vmdk}
