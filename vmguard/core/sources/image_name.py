"""Interpret the name of an image in another image's header as QEMU does: ``parse_name(text, format)``. Pure.

Most names are paths. A word before a colon, in front of any slash, is a protocol (``nbd://host/disk``,
``file:/srv/a``). ``json:{...}`` is a tree of QEMU's own options, which libvirt writes for what a path cannot express.
Its strings may stand in single quotes, and its keys be dotted: ``"file.filename"`` is the ``filename`` in ``file``
(QEMU qobject/json-lexer.c, qdict_flatten). It may name a whole chain: ``"backing.file.filename"``,
``"data-file.filename"``.

The format that the header declares for the image wins over the ``driver`` in its name (QEMU block.c: the options of
bdrv_open_backing_file come first, parse_json_protocol overwrites none of them).
"""

from __future__ import annotations

from vmguard.core.locks.plan import BLOCK, DIRECTORY, NETWORK, OTHER, on_block_device
from vmguard.core.sources.qemu_json import in_double_quotes
from vmguard.errors import PlanError

FILE = "file"

_NETWORK = frozenset(
    ("nbd", "nbds", "nbd+tcp", "nbd+unix", "nbds+tcp", "rbd", "iscsi", "gluster", "gluster+tcp", "gluster+unix",
     "gluster+rdma", "http", "https", "ftp", "ftps", "tftp", "ssh", "sheepdog", "nfs", "vxhs", "libssh", "curl")
)  # fmt: skip
_BLOCK = frozenset(("host_device", "host_cdrom"))
_OTHER = frozenset(("nvme", "nvme-io_uring", "virtio-blk-vhost-vdpa", "virtio-blk-vhost-user", "virtio-blk-vfio-pci"))
#: drivers between a format and its file that do not change which file is meant
_FILTERS = frozenset(
    ("throttle", "copy-on-read", "preallocate", "blkdebug", "snapshot-access", "compress", "replication", "blkreplay")
)
#: drivers without any storage
_NOTHING = frozenset(("null-co", "null-aio"))
#: suffix of a size -> its power of two (QEMU util/cutils.c, qemu_strtosz)
_UNITS = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}
_MAX_NESTING = 16
_MAX_QUOTED = 80
_CHILDREN = ("file", "image", "backing", "data-file")


class ImageName:
    """The meaning of a name: ``kind`` is FILE and ``path`` the file, or a kind of Unguarded and ``path`` the reason."""

    __slots__ = ("backing", "data_file", "ends", "format", "kind", "offset", "path")

    def __init__(self, kind: str, path: str, format: str | None = None, offset: int = 0) -> None:
        self.kind = kind
        self.path = path
        #: the format that the name itself declares; None for none
        self.format = format
        self.offset = offset
        #: the image below, or (``ends``) that there is none; with neither the image's own header decides
        self.backing: ImageName | None = None
        self.ends = False
        self.data_file: ImageName | None = None

    def __repr__(self) -> str:
        return f"Name({self.kind}, {self.path!r}, {self.format}, {self.offset})"


def parse_name(text: str, format: str | None = None) -> ImageName:
    """Interpret a name from a header that declares ``format`` for it. A relative path stays relative.

    Raises PlanError.
    """
    if text.startswith("json:"):
        return _interpret(_options(text[5:]), format, text[5:])
    name = _plain(text)
    name.format = format
    return name


def _plain(text: str) -> ImageName:
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
    if driver in _NOTHING:
        return ImageName(OTHER, f"{public(text)} is nothing but zeros: no file to lock")
    raise PlanError(
        f"it names {_quoted(text)}, in which QEMU takes {driver[:40]!r} for a protocol that is not known here",
        "a file name with a colon needs a path in front of it, for example ./a:b.qcow2",
    )


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise PlanError(f"it names the file {_quoted(path)} relative to nothing: only an absolute path is clear here")
    return path


def public(text: str) -> str:
    """Return a name without what is secret in it, for people."""
    from vmguard.core.sources import secrets  # only such names pay for the import

    return secrets.public(text)


def _quoted(text: str) -> str:
    return repr(public(text)[:_MAX_QUOTED])


# --- json: ------------------------------------------------------------------------------------------------------------


def _options(text: str) -> dict[str, object]:
    """Return the options of a ``json:`` name, all keys dotted. Raises PlanError."""
    import json  # only such names pay for the import

    flat: dict[str, object] = {}
    try:
        options = json.loads(in_double_quotes(text), object_pairs_hook=_unique)
        if isinstance(options, dict):
            _flatten(options, "", flat, 0)
    except (ValueError, RecursionError):
        raise PlanError(f"it names {_quoted(f'json:{text}')}, which is not JSON as QEMU reads it") from None
    return flat


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object of JSON. Raises ValueError for a key that occurs twice: QEMU refuses it, too."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


def _flatten(options: dict[str, object], prefix: str, flat: dict[str, object], depth: int) -> None:
    if depth > _MAX_NESTING:
        raise ValueError("nested too deeply")
    for key, value in options.items():
        inner = dict(zip(map(str, range(len(value))), value, strict=True)) if isinstance(value, list) else value
        if isinstance(inner, dict):
            _flatten(inner, f"{prefix}{key}.", flat, depth + 1)
        elif prefix + key in flat:
            raise ValueError("a key occurs twice")
        else:
            flat[prefix + key] = value


def _below(options: dict[str, object], word: str) -> dict[str, object]:
    """Return the options below a word, empty for none."""
    return {key[len(word) + 1 :]: value for key, value in options.items() if key.startswith(word + ".")}


def _interpret(options: dict[str, object], declared: str | None, text: str, depth: int = 0) -> ImageName:
    """Return the image that a tree of options means, with the chain that the tree itself names. Raises PlanError."""
    format: str | None = None
    offset = 0
    chain = ImageName(OTHER, "")
    driver: object = declared or options.get("driver")
    for _ in range(_MAX_NESTING if depth < _MAX_NESTING else 0):
        child = _below(options, "file") or _below(options, "image")
        if not child:
            name = _leaf(options, format or declared, offset, text)
            name.backing, name.ends, name.data_file = chain.backing, chain.ends, chain.data_file
            return name
        if driver is not None and not isinstance(driver, str):
            raise PlanError(f"it names {_quoted(f'json:{text}')}, in which a driver is no word")
        _read_chain(options, chain, text, depth)
        if driver == "raw":
            offset += _number(options.get("offset", 0), text)
            format = format or driver
        elif driver not in _FILTERS and format in (None, "raw"):
            format, offset = driver, 0
        elif driver and driver not in _FILTERS:  # a header inside another format's data cannot be read from the file
            format = f"{format} in {driver}"
        options, driver = child, child.get("driver")
    raise PlanError(f"it names {_quoted(f'json:{text}')}, in which no file can be found")


def _read_chain(options: dict[str, object], chain: ImageName, text: str, depth: int) -> None:
    """Read what one level of the tree names besides its own file: the image below, the data file. Raises PlanError."""
    if "backing" in options and not options["backing"]:  # null; QEMU takes an empty text for null, too
        chain.ends = True
    backing, data = _below(options, "backing"), _below(options, "data-file")
    if backing:
        if "file.filename" not in backing:  # QEMU would go on with the name in the image's own header
            raise PlanError(f"it names {_quoted(f'json:{text}')}, which holds a chain of its own without a file")
        chain.backing = _interpret(backing, None, text, depth + 1)
    if data:
        chain.data_file = _interpret(data, None, text, depth + 1)
    for key, value in options.items():
        word, dot, _ = key.partition(".")
        if (word in _CHILDREN and not dot and value) or (word not in _CHILDREN and key.endswith("filename")):
            raise PlanError(f"it names {_quoted(f'json:{text}')}, in which {key[:40]!r} names more than is read here")


def _leaf(options: dict[str, object], format: str | None, offset: int, text: str) -> ImageName:
    driver, filename = options.get("driver"), options.get("filename")
    if driver in (None, "file") and isinstance(filename, str):
        name = _plain(filename) if driver is None and not filename.startswith("json:") else ImageName(FILE, filename)
        if name.kind != FILE:
            return name
        return ImageName(FILE, _absolute(_clean(name.path)), format, offset)
    if isinstance(driver, str) and driver in _NETWORK | _BLOCK | _OTHER | _NOTHING | {"vvfat"}:
        return _by_driver(driver, driver)
    raise PlanError(f"it names {_quoted(f'json:{text}')}, in which no file can be found")


def _clean(path: str) -> str:
    """Refuse what JSON can express and no path may contain: a NUL, half of a surrogate pair. Raises PlanError."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise PlanError(f"it names the file {_quoted(path)}, which is not UTF-8") from None
    if "\0" in path:
        raise PlanError(f"it names the file {_quoted(path)}, which holds a NUL byte")
    return path


def _number(value: object, text: str) -> int:
    """Return an offset: a number, or a text as QEMU reads a size, ``4096``, ``0x1000``, ``4k``. Raises PlanError."""
    try:
        number = _size(value) if isinstance(value, str) else value if isinstance(value, int) else -1
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 62:
        raise PlanError(f"it names {_quoted(f'json:{text}')}, in which an offset is not a number")
    return number


def _size(text: str) -> int:
    """Read a size without a fraction. Raises ValueError."""
    if text[:2] in ("0x", "0X"):
        return int(text, 16)
    power = _UNITS.get(text[-1:].lower(), 0)
    digits = text[:-1] if text[-1:].lower() in _UNITS else text
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError("no number")
    return int(digits) << power
