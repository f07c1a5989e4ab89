"""The message of a refused start: which disk, who holds it, since when, whether that host is alive, what to do now.

Imported only when a start is refused, so the import may cost something.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from vmguard.core.locks.owner_record import Owner
from vmguard.core.locks.ranges import QEMU_RANGE, Range, covers
from vmguard.core.words import printable

_RECORD_TIME = "%Y-%m-%dT%H:%M:%SZ"
#: in place of a process of this host
UNSEEN = "one whose descriptors cannot be seen"


@dataclass(frozen=True)
class Here:
    """The identity of this host, as its own owner records name it."""

    host: str
    machine: str
    boot: str


@dataclass(frozen=True)
class Holder:
    """Everything known about the holder of a disk that could not be locked."""

    owner: Owner | None
    #: why the owner record could not be read, empty when it could
    record_problem: str
    #: processes of this host that have it locked, like ``qemu-img (pid 12, user root)``
    local_users: tuple[str, ...]
    #: the server's lease in seconds; None when the storage is not NFSv4 or the lease is not known
    lease: float | None
    #: why the record may be about another file; empty when there is no reason to think so
    doubt: str = ""
    #: the bytes of a shared lock, if no exclusive one is in the way
    shared: Range | None = None

    @property
    def is_reader(self) -> bool:
        """Whether somebody who only reads the disk is in the way: no claim is, and no QEMU with image locks."""
        return self.shared is not None and not covers([QEMU_RANGE], self.shared)


def reader_words(local_users: tuple[str, ...]) -> str:
    """Return who it is whose shared lock is in the way."""
    if local_users:
        return f"a reader (a shared lock) on this host: {', '.join(local_users)}"
    return "a reader (a shared lock) on another host"


#: everybody who may open an image for reading can lock it against a start
KEEP_READERS_OUT = (
    "whoever may read an image can do this (chmod o-rwx keeps others out; vmguard doctor shows the modes)"
)


def ago(since: str, now: datetime.datetime) -> str:
    """Return ``12 min ago`` for a time in a record; empty when the time cannot be parsed."""
    try:
        then = datetime.datetime.strptime(since, _RECORD_TIME).replace(tzinfo=datetime.UTC)
    except ValueError:
        return ""
    seconds = int((now - then).total_seconds())
    if seconds < 0:
        return "in the future: the clocks of the two hosts disagree"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def in_use(
    disk: str, vm: str, here: Here, holder: Holder, now: datetime.datetime, waited: float
) -> tuple[list[str], str]:
    """Return message, line by line, and hint for a disk that somebody else has locked. ``waited`` is in seconds."""
    title = f"VM '{printable(vm)}' is not started: disk {printable(disk)} is locked"
    lines = [f"{title} by {_who(here, holder)}" + (f" (waited {waited:.0f} s)" if waited >= 1 else "")]
    owner = holder.owner
    if holder.is_reader:
        lines.append("  held by  : nobody as a disk of a VM" + (f"; {_last(owner)}" if owner is not None else ""))
    elif owner is not None:
        lines.append(f"  held by  : host {printable(owner.host)}, VM '{printable(owner.vm)}', epoch {owner.epoch}")
        lines.append(f"  since    : {_when(owner.claimed)} ({ago(owner.claimed, now)})")
        if owner.released:
            lines.append(f"  but      : that claim was released {_when(owner.released)}")
        if holder.doubt:
            lines.append(f"  unsure   : {holder.doubt}")
    else:
        lines.append(f"  held by  : unknown ({holder.record_problem or 'nobody wrote an owner record'})")
    lines.append(f"  alive?   : {_alive(here, holder)}")
    return lines, _what_to_do(here, holder, now)


def _last(owner: Owner) -> str:
    return f"its last claim was host {printable(owner.host)}'s, VM '{printable(owner.vm)}', epoch {owner.epoch}"


def _when(stamp: str) -> str:
    return stamp.replace("T", " ").replace("Z", " UTC")


def _is_here(here: Here, owner: Owner) -> bool:
    return bool(owner.machine) and owner.machine == here.machine and owner.host == here.host


def _who(here: Here, holder: Holder) -> str:
    owner = holder.owner
    if holder.is_reader:
        return reader_words(holder.local_users)
    if owner is not None and not owner.released and _is_here(here, owner) and owner.boot == here.boot:
        return "this host itself"
    if holder.local_users:
        return "a process of this host: " + ", ".join(holder.local_users)
    if owner is None or owner.released:
        return "somebody who does not use vmguard"
    return "this host before its last reboot" if _is_here(here, owner) else f"host {printable(owner.host)}"


def _alive(here: Here, holder: Holder) -> str:
    owner = holder.owner
    if holder.local_users:
        return "yes, it is this host"
    if owner is not None and _is_here(here, owner) and owner.boot == here.boot and not holder.is_reader:
        return "yes, it is this host"
    if holder.lease is None:
        return "cannot be known from here"
    return (
        f"cannot be known from here, but its lock is; a dead host's lock is freed by the server"
        f" {holder.lease:.0f} s (one lease) after its last contact"
    )


def _what_to_do(here: Here, holder: Holder, now: datetime.datetime) -> str:
    owner = holder.owner
    if holder.is_reader:
        where = "" if holder.local_users else " on the other hosts that mount this share (vmguard who, there)"
        what = "end what reads it, a backup or a VM with it as its backing image"
        return f"{what}{where}; then start again; {KEEP_READERS_OUT}"
    if owner is not None and not owner.released and _is_here(here, owner) and owner.boot == here.boot:
        return f"stop VM '{printable(owner.vm)}' first; see: vmguard status"
    if holder.local_users:
        return "end that process if it should not be there, or wait for it; then start again"
    if owner is None or owner.released:
        where = "the other hosts that mount this share"
        stop = f"look for QEMU or qemu-img on {where}"
    else:
        stop = f"if the VM runs on {printable(owner.host)}, stop it there or leave it there"
    if holder.lease is None:
        return stop
    free = now + datetime.timedelta(seconds=holder.lease + 1)
    return f"{stop}; if that host is dead, start again after {free:%H:%M:%S} UTC"
