"""The owner record: who claimed a disk, since when, and how often it was claimed (the epoch).

It lies beside the disk, in ``.vmguard/INODE.owner``, and informs people; it is never the lock. A record is a row of
fixed slots, one per claim: slot N-1 belongs to epoch N. So a claim costs one OPEN (whose reply carries the size, and
with it the epoch), one WRITE and one CLOSE; nothing is ever rewritten but a claim's own slot, when it is released.
A slot is one JSON object, padded with spaces to SLOT bytes, closed by its checksum: a slot torn by a crash or a full
disk is recognised, and the one before it still speaks.

The file is keyed by inode, not by name, because images get renamed under a running VM (external snapshots).
"""

from __future__ import annotations

import binascii

from vmguard.core.lean_json import decode, encode

#: bytes of one slot
SLOT_BYTES = 1024
#: bytes of the fields that people choose: longer names are cut, never refused
_MAX_FIELD_BYTES = 120

TEXT_FIELDS = ("host", "machine", "boot", "hypervisor", "vm", "uuid", "path", "claimed", "released", "version")


class Owner:
    """One claim of one disk. Times are UTC, ``2026-11-20T13:01:22Z``; ``released`` is empty while it is held."""

    __slots__ = (
        "boot",
        "claimed",
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
        #: /etc/machine-id and the kernel's boot id: tell clones and reboots apart
        self.machine = fields.get("machine", "")
        self.boot = fields.get("boot", "")
        self.hypervisor = fields.get("hypervisor", "")
        self.vm = fields.get("vm", "")
        self.uuid = fields.get("uuid", "")
        self.path = fields.get("path", "")
        self.claimed = fields.get("claimed", "")
        self.released = fields.get("released", "")
        self.version = fields.get("version", "")

    def as_json(self) -> dict[str, str | int]:
        values: dict[str, str | int] = {"epoch": self.epoch}
        for name in TEXT_FIELDS:
            values[name] = getattr(self, name)
        return values


def _cut(text: str) -> str:
    """A text short enough for its slot, also when every character needs six bytes of escape."""
    while len(encode(text)) > _MAX_FIELD_BYTES:
        text = text[: max(1, len(text) * 3 // 4)]
    return text


def slot(owner: Owner) -> bytes:
    """The bytes of one slot."""
    values = owner.as_json()
    for name in TEXT_FIELDS:
        values[name] = _cut(str(values[name]))
    body = encode(values)[:-1]
    closing = f',"check":"{binascii.crc32(body.encode()):08x}"}}\n'
    return (body + " " * (SLOT_BYTES - len(body) - len(closing)) + closing).encode()


def parse_slot(data: bytes) -> Owner | None:
    """The claim in a slot; None when it is torn, foreign or empty."""
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
    return Owner(epoch, **{name: str(values.get(name, "")) for name in TEXT_FIELDS})


def next_epoch(size: int) -> int:
    """The epoch of the claim that follows, from the record's size in bytes; a torn last slot is left behind."""
    return (size + SLOT_BYTES - 1) // SLOT_BYTES + 1


def position(epoch: int) -> int:
    """Where the slot of an epoch begins."""
    return (epoch - 1) * SLOT_BYTES


def file_name(inode: int) -> str:
    return f"{inode}.owner"
