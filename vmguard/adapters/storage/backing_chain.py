"""Open a VM's files from its sources: every chain walked, every file opened once, in its strongest mode.

::

    resolved = resolve(parse_domain(xml), Opener())
    for file, planned in resolved.pairs(): ...      # the claim locks file.fd as planned.mode says
    resolved.close()
    plan_of(xml).as_json()                          # `vmguard plan`

All files that are needed exclusively are opened before any that is shared. Exclusive ones can only be named by the
XML or be the data file of an exclusive image, never by a backing chain; so a file that one disk backs on and another
writes to is always met in its stronger use first, and nothing is ever opened again for a stronger mode.

A name in a header is relative to the directory of its image *as that was named*: symbolic links on the way to the
image are not resolved first, in QEMU and libvirt alike. (QEMU alone takes a relative data file from its own working
directory; libvirt, and so this, from the image's.) Loops are found by device and inode, not by name.
"""

from __future__ import annotations

import os

from vmguard.adapters.storage.files import Missing, NotAFile, OpenedFile, Opener, ReadOnlyOpener
from vmguard.core.locks.plan import (
    BACKING,
    BLOCK,
    DATA_FILE,
    EXCLUSIVE,
    LOCAL,
    MISSING,
    NETWORK,
    OTHER,
    SHARED,
    Plan,
    PlannedFile,
    Unguarded,
    on_block_device,
)
from vmguard.core.sources.domain_xml import FILE, VOLUME, Domain, Source, parse_domain
from vmguard.core.sources.image_header import COMPLETE, MAX_BYTES, USUAL_BYTES, ImageHeader, parse_header
from vmguard.errors import PlanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmguard.adapters.storage.libvirt_pools import Pools
    from vmguard.adapters.storage.path_walk import Found
    from vmguard.core.sources.image_name import ImageName

#: libvirt gives up at 200 images
MAX_CHAIN = 256

_ONLY_READ = "is on this host's own file system, and only an image's header names it: it is read, and not locked"
_LATE = "is not there yet: it is made when the VM starts, and guarded from the next start on"


class Resolved:
    """A plan and the open file of each of its entries, both ordered by inode and path: alike on every host.

    (Device numbers of NFS mounts differ from host to host, inode numbers do not.)
    """

    __slots__ = ("files", "plan")

    def __init__(self, plan: Plan, files: list[OpenedFile]) -> None:
        self.plan = plan
        self.files = files

    def pairs(self) -> list[tuple[OpenedFile, PlannedFile]]:
        return list(zip(self.files, self.plan.files, strict=True))

    def close(self) -> None:
        for file in self.files:
            file.close()


def resolve(domain: Domain, opener: Opener, pools: Pools | None = None) -> Resolved:
    """Open all files of a VM. Raises a VmguardError with nothing left open."""
    walk = _Walk(domain, opener, pools)
    try:
        for source in domain.sources:
            if source.mode == EXCLUSIVE:
                walk.open_image(source, source.what)
        for source in domain.sources:
            walk.follow(source)
    except BaseException:
        walk.close()
        raise
    return walk.result()


def plan_of(xml: bytes, opener: Opener | None = None, pools: Pools | None = None, defined: bool = True) -> Plan:
    """Return what a start would lock. Locks nothing, leaves nothing open. ``defined``: as parse_domain has it."""
    domain = parse_domain(xml, defined)
    resolved = resolve(domain, ReadOnlyOpener() if opener is None else opener, pools)
    resolved.close()
    return resolved.plan


class _Image:
    """A file that was opened, and the headers found in it (by declared format and offset: usually one)."""

    __slots__ = ("file", "headers", "locked", "planned")

    def __init__(self, file: OpenedFile, planned: PlannedFile, locked: bool) -> None:
        self.file = file
        self.planned = planned
        #: False: it is only read
        self.locked = locked
        self.headers: dict[tuple[str | None, int], ImageHeader] = {}


class _Named(Source):
    """A source that only the header of an image names: ``image``, which may be anybody's work.

    ``homes``: the folders with all that belongs to the image that the configuration names.
    """

    __slots__ = ("homes", "image")

    homes: tuple[str, ...]
    image: OpenedFile


class _Walk:
    __slots__ = ("_by_key", "_by_path", "_domain", "_notes", "_opener", "_pools", "_unguarded")

    def __init__(self, domain: Domain, opener: Opener, pools: Pools | None) -> None:
        self._domain = domain
        self._opener = opener
        self._pools = pools
        self._by_path: dict[str, _Image] = {}
        self._by_key: dict[tuple[int, int], _Image] = {}
        self._unguarded: list[Unguarded] = []
        self._notes: set[tuple[str, str]] = set()

    def close(self) -> None:
        for image in self._by_key.values():
            image.file.close()

    def result(self) -> Resolved:
        for image in [image for image in self._by_key.values() if not image.locked]:
            self._note(image.planned.source, f"{image.file.path} {_ONLY_READ}", LOCAL)
            image.file.close()
            del self._by_key[image.file.key]
        images = sorted(self._by_key.values(), key=lambda image: (image.file.key[1], image.file.path))
        unguarded = self._domain.unguarded + self._unguarded
        plan = Plan(self._domain.name, self._domain.uuid, [image.planned for image in images], unguarded)
        return Resolved(plan, [image.file for image in images])

    def _note(self, source: str, reason: str, kind: str) -> None:
        if (source, reason) not in self._notes:
            self._notes.add((source, reason))
            self._unguarded.append(Unguarded(source, reason, kind))

    # --- one image ------------------------------------------------------------------------------------------------

    def open_image(self, source: Source, label: str) -> _Image | None:
        """Open a source and its data file; return None, with a note, if the source itself is no file to guard."""
        self._settle(source)
        image = self._open_file(source, label) if source.kind == FILE else None
        if source.kind != FILE:
            self._note(source.what, source.path + self._unread(source), source.kind)
        if image is not None or source.kind not in (FILE, MISSING):
            self._open_data_file(source, image, label)
        return image

    def _unread(self, source: Source) -> str:
        """Return what nobody knows of an image that is no file: its header is not read here."""
        told = source.data_store is not None and (source.backing is not None or source.ends)
        if told or source.kind not in (BLOCK, NETWORK) or source.format in COMPLETE:
            return ""
        return "; nor is anything guarded that only its header names, such as a data file"

    def _settle(self, source: Source) -> None:
        """Resolve a pool volume into a file, or into what else it is."""
        if source.kind == VOLUME:
            from vmguard.adapters.storage.libvirt_pools import Pools, UnknownPool  # only a VM with volumes pays for it

            self._pools = self._pools or Pools()
            try:
                source.kind, source.path = self._pools.locate(source.pool, source.path, source.what)
            except UnknownPool as problem:
                if not source.is_optional:
                    raise
                source.kind, source.path = MISSING, f"{problem.message}; the VM may start without it"

    def _open_file(self, source: Source, label: str) -> _Image | None:
        path = source.path
        image = self._by_path.get(path)
        if image is not None:
            image.locked = image.locked or not isinstance(source, _Named)
            return image
        locked = True

        def judge(found: Found) -> None:
            nonlocal locked
            if isinstance(source, _Named) and (found.status.st_dev, found.status.st_ino) not in self._by_key:
                locked = self._opener.reach.may_lock(found, source.image, source.homes, source.mode, label)

        try:
            file = self._opener.open(path, source.mode, label, judge)
        except Missing:
            if source.late:
                self._note(source.what, f"{path} {_LATE}", MISSING)
            elif source.is_optional:
                self._note(source.what, f"{path} does not exist, and the VM may start without it", MISSING)
            else:
                raise
            return None
        except NotAFile as problem:
            if problem.found == "block device":
                source.kind, source.path = BLOCK, on_block_device(path)
            elif problem.found == "character device" and source.late:  # /dev/dax: memory of this host
                self._note(source.what, f"{path} is a device of this host: no file to lock", OTHER)
            else:
                raise
            return None
        image = self._by_key.get(file.key)
        if image is None:
            planned = PlannedFile(path, source.mode, source.role, source.what)
            image = self._by_key[file.key] = _Image(file, planned, locked)
        else:
            file.close()  # a second name of one file; locks are of the first descriptor, so this one takes none away
            image.locked = image.locked or not isinstance(source, _Named)
        self._by_path[path] = image
        return image

    def _open_data_file(self, source: Source, image: _Image | None, label: str) -> None:
        data = source.data_store
        if data is None:
            if image is None:
                return
            header = self._header(source, image, label)
            if header.data_file is None:
                return
            where = f"data file of {source.path}"
            data = self._named(header.data_file, source, image, where, DATA_FILE, label)
            if data.format not in (None, "raw"):
                reason = f"it is itself an image ({data.format}), and what lies below it is not read"
                self._note(where, reason, OTHER)
            data.format = "raw"
        opened = self.open_image(data, f"{label}: {data.what}")
        if opened is not None and opened is image:
            raise PlanError(f"{label}: {source.path!r} names itself as its data file", path=source.path)

    def _header(self, source: Source, image: _Image, label: str) -> ImageHeader:
        key = (source.format, source.offset)
        header = image.headers.get(key)
        if header is None:
            header = image.headers[key] = _read_header(image.file, source, label, self._domain.probes)
            if header.note:
                self._note(source.what, f"{source.path}: {header.note}", OTHER)
        return header

    # --- one chain ------------------------------------------------------------------------------------------------

    def follow(self, top: Source) -> None:
        """Open everything below a source, to the end of its chain."""
        seen: dict[tuple[int, int], str] = {}
        label = top.what
        current = top
        for _ in range(MAX_CHAIN):
            image = self.open_image(current, label)
            if image is not None:
                if image.file.key in seen:
                    raise _loop(top, [*seen.values(), current.path])
                seen[image.file.key] = current.path
            following = self._below(current, image, label)
            if following is None:
                return
            following.policy = top.policy
            current, label = following, f"{top.what}: {following.what}"
        raise PlanError(f"{top.what}: its backing chain is longer than {MAX_CHAIN} images", path=top.path)

    def _below(self, source: Source, image: _Image | None, label: str) -> Source | None:
        """Return the next image of a chain: what the XML says, else what the header says."""
        if source.backing is not None or source.ends or image is None:
            return source.backing
        header = self._header(source, image, label)
        if header.backing is None:
            return None
        what = f"backing of {source.path}"
        return self._named(header.backing, source, image, what, BACKING, label, header.backing_format)

    def _named(
        self, name: str, parent: Source, image: _Image, what: str, role: str, label: str, format: str | None = None
    ) -> Source:
        """Return the source behind a name that stands in an image's header, which declares its format."""
        from vmguard.core.sources.image_name import parse_name  # a VM without chains does not pay for it

        try:
            found = parse_name(name, format)
        except PlanError as problem:
            raise _about(problem, label, parent.path) from problem
        return _source_of(found, parent, image.file, what, role)


def _source_of(name: ImageName, parent: Source, image: OpenedFile, what: str, role: str) -> Source:
    """Return the source that a name in an image's header means, with the chain that the name itself holds."""
    path = name.path
    if name.kind == FILE and not path.startswith("/"):
        path = os.path.join(os.path.dirname(parent.path), path)
    source = _Named(what, name.kind, path, SHARED if role == BACKING else parent.mode, role, name.format)
    source.image, source.homes = image, _homes(parent, image)
    source.offset = name.offset
    source.policy = parent.policy
    source.ends = name.ends
    called = path if name.kind == FILE else what
    if name.backing is not None:
        source.backing = _source_of(name.backing, source, image, f"backing of {called}", BACKING)
    if name.data_file is not None:
        source.data_store = _source_of(name.data_file, source, image, f"data file of {called}", DATA_FILE)
        source.data_store.format = "raw"
    return source


def _homes(source: Source, image: OpenedFile) -> tuple[str, ...]:
    if isinstance(source, _Named):
        return source.homes
    return (source.home,) if source.home else (os.path.dirname(image.path), os.path.dirname(image.real))


def _read_header(file: OpenedFile, source: Source, label: str, probes: bool) -> ImageHeader:
    """Read a header: once for most images, more often for one that does not fit; not at all for a raw one."""
    if source.format == "raw":
        return ImageHeader("raw")
    size = max(0, file.size - source.offset)
    try:
        header = parse_header(file.read(USUAL_BYTES, source.offset), source.format, size)
        got = USUAL_BYTES
        while header.needs:  # each extension tells only where the next one begins
            wanted = min(max(header.needs, 2 * got), MAX_BYTES)
            data = file.read(wanted, source.offset)
            if len(data) < header.needs:
                raise PlanError(f"its {header.format} header ends early: the file shrank while it was read")
            got = wanted
            header = parse_header(data, source.format, size)
    except PlanError as problem:
        raise _about(problem, label, source.path) from problem
    if source.format is None and header.leans_on_others and not probes:
        raise PlanError(
            f"{label}: {source.path!r} is a {header.format} image with files below it, but the image above it does not "
            "say so",
            "state the format (libvirt refuses this too): qemu-img rebase -u -b BACKING -F FORMAT IMAGE",
            source.path,
        )
    return header


def _about(problem: PlanError, label: str, path: str) -> PlanError:
    return PlanError(f"{label}: {path!r}: {problem.message}", problem.hint, path)


def _loop(top: Source, paths: list[str]) -> PlanError:
    shown = paths if len(paths) < 8 else [*paths[:3], "...", *paths[-3:]]
    return PlanError(
        f"{top.what}: its backing chain is a loop: {' -> '.join(repr(path) for path in shown)}",
        "an image lies below itself: restore one of them, or qemu-img rebase -u",
        top.path,
    )
