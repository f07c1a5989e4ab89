"""The owner record: who claimed a disk, since when, and how often it was claimed (the epoch).

The record is beside the disk, in ``.vmguard/INODE.owner``, and informs people; it is never the lock. It is a row of
fixed slots, one per claim: slot N-1 belongs to epoch N. So a claim costs one OPEN (whose reply carries the size, and
with it the epoch), one WRITE and one CLOSE. Only a claim's own slot is ever rewritten, when the claim is released.
A slot is one JSON object, padded with spaces to SLOT_BYTES, with a checksum at its end: a slot torn by a crash or a
full disk is recognised, and the slot before it is still valid.

The file is keyed by inode, not by name, because images get renamed under a running VM (external snapshots).
"""

from __future__ import annotations

import binascii

from vmguard.core.lean_json import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeGuard

#: size of one slot
SLOT_BYTES = 1024
#: longest JSON form of a field that people choose: longer names are cut, never refused
_MAX_FIELD_BYTES = 120

TEXT_FIELDS = ("host", "machine", "boot", "hypervisor", "vm", "uuid", "path", "claimed", "released", "version", "ended")
#: whoever may write on the share may write anything into a record; names of people's choice are shown with care
_OF_PEOPLE = ("host", "vm", "path")


class Owner:
    """One claim of one disk. Times are UTC, ``2026-11-20T13:01:22Z``; ``released`` is empty while the claim stands."""

    __slots__ = (
        "boot",
        "claimed",
        "ended",
        "epoch",
        "host",
        "hypervisor",
        "machine",
        "path",
        "released",
        "uuid",
        "version",
        "vm",
    )

    def __init__(self, epoch: int, **fields: str) -> None:
        self.epoch = epoch
        self.host = fields.get("host", "")
        #: /etc/machine-id and the kernel's boot id: they tell clones and reboots apart
        self.machine = fields.get("machine", "")
        self.boot = fields.get("boot", "")
        self.hypervisor = fields.get("hypervisor", "")
        self.vm = fields.get("vm", "")
        self.uuid = fields.get("uuid", "")
        self.path = fields.get("path", "")
        self.claimed = fields.get("claimed", "")
        self.released = fields.get("released", "")
        self.version = fields.get("version", "")
        #: how the run ended, in a word of the hypervisor; ``failed``: it never began; empty: not known
        self.ended = fields.get("ended", "")

    def as_json(self) -> dict[str, str | int]:
        """Return all fields by name."""
        values: dict[str, str | int] = {"epoch": self.epoch}
        for name in TEXT_FIELDS:
            values[name] = getattr(self, name)
        return values


def _cut(text: str) -> str:
    """Cut a text so that it fits its slot, also when every character needs six bytes of escape."""
    while len(encode(text)) > _MAX_FIELD_BYTES:
        text = text[: max(1, len(text) * 3 // 4)]
    return text


def slot(owner: Owner) -> bytes:
    """Return the SLOT_BYTES bytes of one claim."""
    values = owner.as_json()
    for name in TEXT_FIELDS:
        values[name] = _cut(str(values[name]))
    body = encode(values)[:-1]
    closing = f',"check":"{binascii.crc32(body.encode()):08x}"}}\n'
    return (body + " " * (SLOT_BYTES - len(body) - len(closing)) + closing).encode()


def parse_slot(data: bytes) -> Owner | None:
    """Return the claim in a slot; None when the slot is torn, foreign or empty."""
    if len(data) != SLOT_BYTES or not data.endswith(b"}\n"):
        return None
    head, mark, tail = data.rpartition(b',"check":"')
    if not mark or tail[:8] != b"%08x" % binascii.crc32(head.rstrip(b" ")):
        return None
    try:
        values = decode(data[:-1].decode())
    except ValueError:
        return None
    epoch = values.get("epoch") if isinstance(values, dict) else None
    if not isinstance(epoch, int) or isinstance(epoch, bool):
        return None
    texts = {name: values.get(name) for name in TEXT_FIELDS}
    return Owner(epoch, **{name: text for name, text in texts.items() if _is_believed(name, text)})


def _is_believed(name: str, text: object) -> TypeGuard[str]:
    """Return whether a field is what vmguard writes there: only people's own words may be other than plain."""
    return isinstance(text, str) and (name in _OF_PEOPLE or (text.isascii() and text.isprintable()))


def next_epoch(size: int) -> int:
    """Return the epoch of the next claim, from the record's size in bytes. A torn last slot is skipped."""
    return (size + SLOT_BYTES - 1) // SLOT_BYTES + 1


def position(epoch: int) -> int:
    """Return the offset at which the slot of an epoch begins."""
    return (epoch - 1) * SLOT_BYTES


def file_name(inode: int) -> str:
    """Return the name of the record of a disk."""
    return f"{inode}.owner"
