"""The messages of a claim: what the daemon tells a hook, and what the hook tells of each file.

A hook and a daemon of different versions meet while a package is upgraded, so both directions stay compatible: names
on the wire never change, unknown keys are ignored, and a key that an older version does not send has a default. A
message of the wrong shape raises WireError, on either side.

The hook's child imports this on its hot path: plain classes with slots, because dataclasses and typing cost it 10 ms.
"""

from __future__ import annotations

from vmguard.errors import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, TypeVar

    T = TypeVar("T")
    Pair = tuple[int, int]

#: the verdict on a kind of storage that the policy does not name
_DEFAULT_VERDICT = "warn"
_SHOWN_CHARACTERS = 200
#: beyond any time in seconds; NaN and infinities, which JSON readers accept, lie outside of it
_LARGEST = 1e18


def shown(value: object) -> str:
    """Return a value from a message for an error text: escaped, and never long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


class Frozen:
    """Base of all messages: each attribute can be set once, by the constructor."""

    __slots__ = ()

    if not TYPE_CHECKING:  # a type checker that saw it would let pass any attribute

        def __setattr__(self, name: str, value: object) -> None:
            if hasattr(self, name):
                raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")
            object.__setattr__(self, name, value)


class HostIdentity(Frozen):
    """How this host names itself in owner records."""

    __slots__ = ("boot", "host", "machine", "version")

    def __init__(self, host: str, machine: str, boot: str, version: str) -> None:
        self.host: Final = host
        self.machine: Final = machine
        self.boot: Final = boot
        #: of vmguard
        self.version: Final = version

    def as_json(self) -> dict[str, str]:
        return {"host": self.host, "machine": self.machine, "boot": self.boot, "version": self.version}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> HostIdentity:
        """Raise WireError when the value is not one."""
        return cls(
            _get(value, "host", str), _get(value, "machine", str), _get(value, "boot", str), _get(value, "version", str)
        )


class RecordOptions(Frozen):
    """Where owner records are written, and for how long the storage may take."""

    __slots__ = ("folder", "timeout")

    def __init__(self, folder: str, timeout: float) -> None:
        #: relative to the disk's own folder; empty: no records are written
        self.folder: Final = folder
        #: seconds
        self.timeout: Final = timeout

    def as_json(self) -> dict[str, Any]:
        return {"folder": self.folder, "timeout": self.timeout}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RecordOptions:
        """Raise WireError when the value is not one."""
        return cls(_get(value, "folder", str), _number(value, "timeout"))


class ClaimPolicy(Frozen):
    """What the admin decided about storage that no lock covers, and about mounts."""

    __slots__ = ("_by_kind", "local", "unsafe_mounts")

    def __init__(self, unsafe_mounts: str, local: str, by_kind: dict[str, str]) -> None:
        """``by_kind``: kind of storage (vmguard/core/locks/plan.py, KINDS) to ``allow``, ``warn`` or ``refuse``."""
        #: ``warn`` or ``refuse``: mounts on which locks cannot be trusted
        self.unsafe_mounts: Final = unsafe_mounts
        #: ``lock`` or ``ignore``: files on this host's own file systems
        self.local: Final = local
        self._by_kind: Final = by_kind

    def for_kind(self, kind: str) -> str:
        """Return ``allow``, ``warn`` or ``refuse`` for a kind of unguarded storage."""
        return self._by_kind.get(kind, _DEFAULT_VERDICT)

    def as_json(self) -> dict[str, str]:
        return {**self._by_kind, "unsafe_mounts": self.unsafe_mounts, "local": self.local}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ClaimPolicy:
        """Raise WireError when the value is not one."""
        by_kind = {kind: _get(value, kind, str) for kind in value if kind not in ("unsafe_mounts", "local")}
        return cls(_get(value, "unsafe_mounts", str), _get(value, "local", str), by_kind)


class ClaimSettings(Frozen):
    """All that a hook must know to claim a VM's files: the daemon's answer to ``claim``."""

    __slots__ = (
        "as_users",
        "excluded_ranges",
        "identity",
        "incoming",
        "mount_wait",
        "now",
        "policy",
        "record",
        "saved",
        "server_waits",
        "server_words",
        "timeout",
        "trusted_folders",
        "wait",
    )

    def __init__(
        self,
        now: str,
        wait: float | None,
        mount_wait: float,
        timeout: float,
        excluded_ranges: list[Pair],
        policy: ClaimPolicy,
        record: RecordOptions,
        identity: HostIdentity,
        as_users: list[Pair],
        incoming: str | None,
        saved: float | None = None,
        trusted_folders: list[str] | None = None,
        server_waits: dict[str, float] | None = None,
        server_words: str = "",
    ) -> None:
        #: the time of the claim, as owner records have it
        self.now: Final = now
        #: seconds for which a start tries to get a lock that somebody else has; None: by the lease of the mounts
        self.wait: Final = wait
        #: seconds for which a start waits until its storage is mounted
        self.mount_wait: Final = mount_wait
        #: seconds for each other step on the share
        self.timeout: Final = timeout
        #: byte ranges that a claim frees again, because others lock them on the same host
        self.excluded_ranges: Final = excluded_ranges
        self.policy: Final = policy
        self.record: Final = record
        self.identity: Final = identity
        #: (uid, gid) pairs that are tried where root may not open a file
        self.as_users: Final = as_users
        #: the host that the VM migrates from, empty if that is not known; None: an ordinary start
        self.incoming: Final = incoming
        #: the VM starts from saved memory: when that was written, in seconds since the epoch, 0 if that is not known;
        #: None: an ordinary start
        self.saved: Final = saved
        #: folders that the links on a share, and the headers of images, may lead to
        self.trusted_folders: Final = trusted_folders or []
        #: by mount point: seconds for which a dead host's lock can stand in the way, by what the server itself said
        self.server_waits: Final = server_waits or {}
        #: which servers are in their grace periods, by their own word; empty: none is, or it is not known
        self.server_words: Final = server_words

    def as_json(self) -> dict[str, Any]:
        return {
            "now": self.now,
            "wait": self.wait,
            "mount_wait": self.mount_wait,
            "timeout": self.timeout,
            "windows": [list(excluded) for excluded in self.excluded_ranges],
            "policy": self.policy.as_json(),
            "record": self.record.as_json(),
            "identity": self.identity.as_json(),
            "as_users": [list(user) for user in self.as_users],
            "incoming": self.incoming,
            **({} if self.saved is None else {"saved": self.saved}),
            **({"trusted_folders": self.trusted_folders} if self.trusted_folders else {}),
            **({"server_waits": self.server_waits} if self.server_waits else {}),
            **({"server_words": self.server_words} if self.server_words else {}),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ClaimSettings:
        """Raise WireError when the value is not one."""
        return cls(
            now=_get(value, "now", str),
            wait=None if value.get("wait", 0) is None else _number(value, "wait"),
            mount_wait=_number(value, "mount_wait"),
            timeout=_number(value, "timeout"),
            excluded_ranges=_pairs(value, "windows"),
            policy=ClaimPolicy.from_json(_get(value, "policy", dict)),
            record=RecordOptions.from_json(_get(value, "record", dict)),
            identity=HostIdentity.from_json(_get(value, "identity", dict)),
            as_users=_pairs(value, "as_users"),
            incoming=None if value.get("incoming") is None else _get(value, "incoming", str),
            saved=None if value.get("saved") is None else _number(value, "saved"),
            trusted_folders=list(map(str, _get(value, "trusted_folders", list))) if "trusted_folders" in value else [],
            server_waits=_numbers(value, "server_waits") if "server_waits" in value else {},
            server_words=_get(value, "server_words", str) if "server_words" in value else "",
        )


class ClaimedFileMessage(Frozen):
    """One locked file of a claim: what the hook tells the daemon beside its descriptor."""

    __slots__ = ("granted", "held_ranges", "key", "mode", "path", "real", "reserved", "role", "source")

    def __init__(
        self,
        path: str,
        mode: str,
        role: str,
        source: str,
        real: str,
        key: tuple[int, int],
        held_ranges: list[Pair],
        granted: float,
        reserved: bool,
    ) -> None:
        self.path: Final = path
        #: ``exclusive`` or ``shared``
        self.mode: Final = mode
        #: why the file belongs to the VM (vmguard/core/locks/plan.py, ROLES)
        self.role: Final = role
        #: where the plan learned of it, for people
        self.source: Final = source
        #: the path behind all links
        self.real: Final = real
        #: device and inode
        self.key: Final = key
        self.held_ranges: Final = held_ranges
        #: CLOCK_BOOTTIME seconds when the request that got the lock was sent; 0: not known
        self.granted: Final = granted
        #: only the reservation byte is locked: the source of a migration has the rest
        self.reserved: Final = reserved

    def as_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "mode": self.mode,
            "role": self.role,
            "source": self.source,
            "real": self.real,
            "device": self.key[0],
            "inode": self.key[1],
            "pieces": [list(held) for held in self.held_ranges],
            "granted": self.granted,
            "foothold": self.reserved,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ClaimedFileMessage:
        """Raise WireError when the value is not one."""
        return cls(
            path=_get(value, "path", str),
            mode=_get(value, "mode", str),
            role=_get(value, "role", str),
            source=_get(value, "source", str),
            real=_get(value, "real" if "real" in value else "path", str),
            key=(_get(value, "device", int), _get(value, "inode", int)),
            held_ranges=_pairs(value, "pieces"),
            granted=_number(value, "granted") if "granted" in value else 0.0,
            reserved=_get(value, "foothold", bool) if "foothold" in value else False,
        )


def _get(value: dict[str, Any], key: str, kind: type[T]) -> T:
    """Return the value of a key. Raise WireError when it is missing or of another type."""
    found = value.get(key)
    if not isinstance(found, kind) or (found.__class__ is bool and kind is not bool):
        raise _wrong(value, key, kind.__name__)
    return found


def _number(value: dict[str, Any], key: str) -> float:
    """Return a number, which JSON may have made an integer. Raise WireError when it is none, or not finite."""
    found = value.get(key)
    if found.__class__ not in (int, float) or not -_LARGEST < found < _LARGEST:
        raise _wrong(value, key, "number")
    return float(found)


def _numbers(value: dict[str, Any], key: str) -> dict[str, float]:
    """Return numbers by name. Raise WireError when it is no object of them."""
    found = _get(value, key, dict)
    return {str(name): _number(found, name) for name in found}


def _pairs(value: dict[str, Any], key: str) -> list[Pair]:
    """Return a list of pairs of integers. Raise WireError when it is none."""
    pairs = []
    for pair in _get(value, key, list):
        if pair.__class__ not in (list, tuple) or [item.__class__ for item in pair] != [int, int]:
            raise _wrong(value, key, "list of pairs of integers")
        pairs.append((pair[0], pair[1]))
    return pairs


def _wrong(value: dict[str, Any], key: str, kind: str) -> WireError:
    if key not in value:
        return WireError(f"the key {key!r} is missing")
    return WireError(f"{key!r} is {shown(value[key])}, not a {kind}")
