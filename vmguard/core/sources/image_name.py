"""Interpret the name of an image in another image's header as QEMU does: ``parse_name(text)``. Pure.

Most names are paths. A word before a colon, in front of any slash, is a protocol (``nbd://host/disk``,
``file:/srv/a``). ``json:{...}`` is a tree of QEMU's own options, which libvirt writes for what a path cannot express.
"""

from __future__ import annotations

from vmguard.core.locks.plan import BLOCK, DIRECTORY, NETWORK, OTHER, on_block_device
from vmguard.errors import PlanError

FILE = "file"

_NETWORK = frozenset(
    ("nbd", "nbds", "nbd+tcp", "nbd+unix", "nbds+tcp", "rbd", "iscsi", "gluster", "gluster+tcp", "gluster+unix",
     "gluster+rdma", "http", "https", "ftp", "ftps", "tftp", "ssh", "sheepdog", "nfs", "vxhs", "libssh", "curl")
)  # fmt: skip
_BLOCK = frozenset(("host_device", "host_cdrom"))
_OTHER = frozenset(("nvme", "nvme-io_uring", "virtio-blk-vhost-vdpa", "virtio-blk-vhost-user", "virtio-blk-vfio-pci"))
#: drivers between a format and its file that do not change which file is meant
_FILTERS = frozenset(("throttle", "copy-on-read", "preallocate", "blkdebug", "snapshot-access"))
_MAX_NESTING = 16


class ImageName:
    """The meaning of a name: ``kind`` is FILE and ``path`` the file, or a kind of Unguarded and ``path`` the reason."""

    __slots__ = ("format", "kind", "offset", "path")

    def __init__(self, kind: str, path: str, format: str | None = None, offset: int = 0) -> None:
        self.kind = kind
        self.path = path
        #: the format that the name itself declares; None for none
        self.format = format
        self.offset = offset

    def __repr__(self) -> str:
        return f"Name({self.kind}, {self.path!r}, {self.format}, {self.offset})"


def parse_name(text: str) -> ImageName:
    """Interpret a name from a header. A relative path stays relative. Raises PlanError."""
    if text.startswith("json:"):
        return _json(text[5:])
    protocol, colon, rest = text.partition(":")
    if not colon or "/" in protocol:
        return ImageName(FILE, text)
    if protocol == "file":
        return ImageName(FILE, _absolute(rest))
    return _by_driver(protocol, text)


def _by_driver(driver: str, text: str) -> ImageName:
    if driver in _NETWORK:
        return ImageName(NETWORK, f"{public(text)} is reached over the network: no file to lock")
    if driver in _BLOCK:
        return ImageName(BLOCK, on_block_device(public(text)))
    if driver in ("fat", "vvfat"):
        return ImageName(
            DIRECTORY, f"{public(text)} is a directory that QEMU shows as a FAT disk: no single file to lock"
        )
    if driver in _OTHER:
        return ImageName(OTHER, f"{public(text)} is a device of this host: no file to lock")
    raise PlanError(
        f"it names {text[:80]!r}, in which QEMU takes {driver[:40]!r} for a protocol that is not known here",
        "a file name with a colon needs a path in front of it, for example ./a:b.qcow2",
    )


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise PlanError(f"it names the file {path[:80]!r} relative to nothing: only an absolute path is clear here")
    return path


def public(text: str) -> str:
    """Return a name without its possibly secret parts: user, password, query."""
    head, mark, rest = text.partition("://")
    if not mark:
        return text[:200]
    return f"{head}://{rest.partition('?')[0].rpartition('@')[2]}"[:200]


def _json(text: str) -> ImageName:
    import json  # only such names pay for the import

    try:
        options = json.loads(text)
    except (ValueError, RecursionError):
        raise PlanError(f"it names 'json:{text[:80]}', which is not JSON") from None
    format: str | None = None
    offset = 0
    for _ in range(_MAX_NESTING):
        if not isinstance(options, dict):
            break
        driver = options.get("driver")
        child = _child(options)
        if child is None:
            return _leaf(options, driver, format, offset, text)
        if not isinstance(driver, str):
            raise PlanError(f"it names 'json:{text[:80]}', which lacks a driver")
        if driver == "raw":
            offset += _number(options.get("offset", 0), text)
        if options.get("backing") is not None or options.get("data-file") is not None:
            raise PlanError(f"it names 'json:{text[:80]}', which holds a chain of its own: that is not read here")
        if driver not in _FILTERS and format in (None, "raw"):
            format = driver
        options = child
    raise PlanError(f"it names 'json:{text[:80]}', in which no file can be found")


def _child(options: dict[str, object]) -> object | None:
    """Return the ``file`` (for filters ``image``) below a format, also in the dotted form ``file.filename``."""
    for word in ("file", "image"):
        if word in options:
            return options[word]
        dotted = {key[len(word) + 1 :]: value for key, value in options.items() if key.startswith(word + ".")}
        if dotted:
            return dotted
    return None


def _leaf(options: dict[str, object], driver: object, format: str | None, offset: int, text: str) -> ImageName:
    filename = options.get("filename")
    if driver in (None, "file") and isinstance(filename, str):
        name = (
            parse_name(filename) if driver is None and not filename.startswith("json:") else ImageName(FILE, filename)
        )
        if name.kind != FILE:
            return name
        return ImageName(FILE, _absolute(_clean(name.path)), format, offset)
    if isinstance(driver, str) and driver in _NETWORK | _BLOCK | _OTHER | {"vvfat"}:
        return _by_driver(driver, driver)
    raise PlanError(f"it names 'json:{text[:80]}', in which no file can be found")


def _clean(path: str) -> str:
    """Refuse what JSON can express and no path may contain: a NUL, half of a surrogate pair. Raises PlanError."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise PlanError(f"it names the file {path[:80]!r}, which is not UTF-8") from None
    if "\0" in path:
        raise PlanError(f"it names the file {path[:80]!r}, which holds a NUL byte")
    return path


def _number(value: object, text: str) -> int:
    try:
        number = int(value) if isinstance(value, (int, str)) else -1
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 62:
        raise PlanError(f"it names 'json:{text[:80]}', in which an offset is not a number")
    return number
