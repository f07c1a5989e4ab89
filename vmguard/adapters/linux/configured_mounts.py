"""The shares that this host is to have mounted: fstab, units of systemd, and libvirt's netfs pools.

A disk that lies below the mount point of such a share while it is not mounted is not the VM's disk: it is an old copy
on the bare folder, or nothing at all. Everything is read from files: a start may not wait for systemd or libvirt,
which may be waiting for it.
"""

from __future__ import annotations

import os

from vmguard.adapters.linux.mounts import Mount, is_share_type, mount_of_path, unescape, written_to

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FSTAB = "/etc/fstab"
#: systemd.unit(5), the folder that goes first is the first; generators also turn fstab into units here
UNIT_FOLDERS = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
POOL_FOLDERS = ("/run/libvirt/storage", "/etc/libvirt/storage")

#: in place of a type: whatever the source looks like
_ANY_TYPE = ("", "auto", "none", "bind")
_MAX_BYTES = 1 << 20
#: read at once: most files here are small, and a start waits for each
_READ_BYTES = 1 << 14


class ConfiguredShare:
    """A share that is to be mounted: where, from where, and which file says so."""

    __slots__ = ("file", "is_by_hand", "is_pool", "point", "source")

    def __init__(self, point: str, source: str, file: str, is_pool: bool = False) -> None:
        self.point = os.path.normpath(point)
        #: for a pool its name, in words
        self.source = source
        self.file = file
        self.is_pool = is_pool
        #: mounted only when somebody does it (noauto)
        self.is_by_hand = False


def shares(
    fstab: str = FSTAB, unit_folders: Iterable[str] = UNIT_FOLDERS, pool_folders: Iterable[str] = POOL_FOLDERS
) -> list[ConfiguredShare]:
    """Return all shares that are configured, mounted or not. A file that cannot be read configures none."""
    found = []
    #: what lies on another mount, with the folder there: binds, stacked file systems
    above: list[tuple[ConfiguredShare, str]] = []
    entries = (*_of_fstab(fstab), *_of_units(unit_folders))
    for point, source, kind, options, file in entries:
        share = ConfiguredShare(point, source, file)
        share.is_by_hand = "noauto" in options
        if kind in ("none", "bind") or "bind" in options or "rbind" in options:
            above.append((share, source))
        elif folder := written_to(kind, source, options):
            above.append((share, folder))
        elif _is_share(kind, source):
            found.append(share)
    while more := [share for share, folder in above if share not in found and _covering(folder, found) is not None]:
        found += more
    return found + list(_of_pools(pool_folders))


def resolve_points(configured: list[ConfiguredShare], table: list[Mount]) -> None:
    """Replace the mount points by what the kernel calls them, where a symbolic link leads to one.

    A point that is mounted is not looked at: its server may be silent.
    """
    mounted = {mount.point for mount in table}
    for share in configured:
        if share.point not in mounted:
            point = os.path.join(os.path.realpath(os.path.dirname(share.point)), os.path.basename(share.point))
            share.point = point if point in mounted else os.path.realpath(point)


def absent_below(path: str, configured: list[ConfiguredShare], table: list[Mount]) -> ConfiguredShare | None:
    """Return the share that should be mounted over a path and is not; None if it lies where it should. Pure.

    A mount at the share's point, or below it, that covers the path is what the path lies on. An automount point counts
    (autofs): opening the path mounts it.
    """
    share = _covering(path, configured)
    if share is None:
        return None
    mount = mount_of_path(path, table)
    return share if mount is None or len(mount.point) < len(share.point) else None


def _covering(path: str, among: list[ConfiguredShare]) -> ConfiguredShare | None:
    """Return the share with the deepest mount point above a path."""
    above = [share for share in among if path == share.point or path.startswith(share.point.rstrip("/") + "/")]
    return max(above, key=lambda share: len(share.point), default=None)


def _is_share(kind: str, source: str) -> bool:
    if kind in _ANY_TYPE:
        return ":/" in source or source.startswith("//")
    return kind not in ("swap", "ignore") and any(map(is_share_type, kind.split(",")))


def _of_fstab(path: str) -> Iterator[tuple[str, str, str, list[str], str]]:
    """Yield (mount point, source, type, options, file) of each line; fstab(5) escapes as the kernel does."""
    for line in _text(path).split("\n"):
        words = [word for word in line.replace("\t", " ").rstrip("\r").split(" ") if word]
        if len(words) >= 3 and not words[0].startswith("#") and words[1].startswith("/"):
            options = words[3].split(",") if len(words) > 3 else []
            yield unescape(words[1]), unescape(words[0]), words[2], options, path


def _of_units(folders: Iterable[str]) -> Iterator[tuple[str, str, str, list[str], str]]:
    """Yield the same of each .mount unit, and of an .automount unit by the .mount unit of its name."""
    seen = set()
    for folder in folders:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            if not name.endswith(".mount") or name in seen:
                continue
            seen.add(name)  # of two files of one name the first counts, also when it masks the unit
            unit = _section(_text(os.path.join(folder, name)), "[Mount]")
            point = unit.get("Where", "") or (_point_of(name) if unit.get("What") else "")
            if point.startswith("/"):
                options = unit.get("Options", "").split(",")
                yield point, unit.get("What", ""), unit.get("Type", ""), options, os.path.join(folder, name)


def _point_of(name: str) -> str:
    """Return the mount point in the name of a unit, which counts where the unit has no Where= (unit_name_to_path)."""
    head, *rest = name.removesuffix(".mount").replace("-", "/").split("\\x")
    try:
        raw = head.encode("utf-8", "surrogateescape")
        raw += b"".join(bytes([int(word[:2], 16)]) + word[2:].encode("utf-8", "surrogateescape") for word in rest)
    except ValueError:
        return ""
    return "/" + raw.decode("utf-8", "surrogateescape").lstrip("/")


def _section(text: str, wanted: str) -> dict[str, str]:
    """Return the settings of one section of a unit; the last of several lines with one key counts."""
    found, inside = {}, False
    for line in text.replace("\\\n", " ").split("\n"):
        line = line.strip()
        if line.startswith("["):
            inside = line == wanted
        elif inside and "=" in line and line[0] not in "#;":
            key, _, value = line.partition("=")
            found[key.strip()] = value.strip().replace("%%", "%")
    return found


def _of_pools(folders: Iterable[str]) -> Iterator[ConfiguredShare]:
    for folder in folders:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            path = os.path.join(folder, name)
            text = _text(path) if name.endswith(".xml") else ""
            if "netfs" in text and (point := _target(text)):
                yield ConfiguredShare(point, f"netfs pool {name[:-4]}", path, True)


def _target(text: str) -> str:
    """Return the mount point of a netfs pool, empty if the XML describes none."""
    from vmguard.core.sources.xml_tree import read_tree  # only where there is such a pool
    from vmguard.errors import BadInput

    try:
        wanted = {"target": frozenset({"path"})}
        root = read_tree(text.encode("utf-8", "surrogateescape"), "pool", wanted, wrappers=("poolstate",))
    except BadInput:
        return ""
    target = root.first("target/path")
    return target.text if root.get("type") == "netfs" and target is not None and target.text.startswith("/") else ""


def _text(path: str) -> str:
    """Return a small file's text, empty if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return ""
    try:
        data = piece = os.read(fd, _READ_BYTES)
        while piece and len(data) < _MAX_BYTES:
            piece = os.read(fd, _READ_BYTES)
            data += piece
        return data.decode("utf-8", "surrogateescape")
    except OSError:
        return ""
    finally:
        os.close(fd)
