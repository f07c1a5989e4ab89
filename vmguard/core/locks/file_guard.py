"""The guard of one file: everything that the daemon knows of its lock, and the events that change it.

The states and their moves are tabled in guard_states.py. Nothing here makes a system call: descriptors and pids are
mere numbers to it, and log lines go to the callback that the constructor got.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vmguard.core.locks.guard_states import (
    LOCKED,
    MOVES,
    ClosingCounter,
    DescriptorKind,
    GuardState,
    Origin,
    Pin,
    Use,
)
from vmguard.core.locks.plan import EXCLUSIVE, SHARED
from vmguard.core.locks.retry import Retry, RetryNever, RetryNow

_S = GuardState
#: states without a descriptor of ours
_BARE = frozenset({_S.PENDING, _S.LOST, _S.RELEASED})


def _broken_rule(
    state: GuardState, origin: Origin, pin: Pin | None, rival: str | None, descriptor: int | None
) -> str | None:
    """Return the invariant that these facts break, or None."""
    rules = {
        "pinned names its pin": state is not _S.PINNED or pin is not None,
        "only pinned and conflict have a pin": pin is None or state in (_S.PINNED, _S.CONFLICT),
        "conflict names its rival, and no other state does": (state is _S.CONFLICT) == (rival is not None),
        "held and incoming have a descriptor": state not in (_S.HELD, _S.INCOMING) or descriptor is not None,
        "pending, lost and released have none": state not in _BARE or descriptor is None,
        "incoming is a reservation": state is not _S.INCOMING or origin is Origin.RESERVED,
        "an incoming VM does not leave": state is not _S.OUTGOING or origin is not Origin.RESERVED,
    }
    return next((rule for rule, holds in rules.items() if not holds), None)


class FileGuard:
    """The guard of one file. Each public method that changes it is one event; the invariants hold after each."""

    __slots__ = (
        *("_descriptor", "_granted", "_kind", "_origin", "_pin", "_report", "_retry", "_rival", "_state"),
        *("_unpinned_reason", "_use", "closing"),
    )

    def __init__(self, origin: Origin, report: Callable[[str], None] = lambda line: None) -> None:
        """``report`` gets a line for each change of state: ``held => pinned: descriptor 7 of pid 4711``."""
        self._report = report
        self._state = _S.PENDING
        self._origin = origin
        self._use = Use.IN_USE if origin.is_found else Use.NEVER
        self._pin: Pin | None = None
        self._rival: str | None = None
        self._descriptor: int | None = None
        self._kind = DescriptorKind.OWN
        self._unpinned_reason: str | None = None
        self._retry: Retry = RetryNever() if origin is Origin.RESERVED else RetryNow()
        self._granted: float | None = None
        self.closing = ClosingCounter()

    # -- what is known ------------------------------------------------------------------------------------------------

    @property
    def state(self) -> GuardState:
        return self._state

    @property
    def origin(self) -> Origin:
        return self._origin

    @property
    def pin(self) -> Pin | None:
        """Return the process's descriptor that carries the lock; in CONFLICT, the one that carried it."""
        return self._pin

    @property
    def rival(self) -> str | None:
        """Return who holds the file, in words (``locked by another host``); None in every state but CONFLICT."""
        return self._rival

    @property
    def descriptor(self) -> int | None:
        """Return our own descriptor of the file, whatever description it refers to."""
        return self._descriptor

    @property
    def unpinned_reason(self) -> str | None:
        """Return why the last pin, or the scan for it, failed; None if it succeeded."""
        return self._unpinned_reason

    @property
    def retry(self) -> Retry:
        """Return when a failed pin may be retried."""
        return self._retry

    @property
    def granted(self) -> float | None:
        """Return when the request that got this lock was sent (CLOCK_BOOTTIME seconds); None if unknown."""
        return self._granted

    @property
    def is_locked(self) -> bool:
        return self._state in LOCKED

    @property
    def is_reserved(self) -> bool:
        """Return whether the source of a migration holds the lock, and our descriptor only the reservation."""
        return self._origin is Origin.RESERVED

    @property
    def is_in_use(self) -> bool:
        """Return whether the guard ends when the VM closes the file.

        It does not while QEMU has not used the file yet, or has only probed its format.
        """
        return self._use is Use.IN_USE

    @property
    def is_on_process(self) -> bool:
        """Return whether the lock is on the description that writes, also if an earlier daemon put it there."""
        kept = self._kind is DescriptorKind.COPY and self._state is not _S.OUTGOING
        return self._pin is not None or kept

    @property
    def has_copy(self) -> bool:
        """Return whether we hold a copy of the description that writes: a lost lock on it turns writes into EIO."""
        return self._descriptor is not None and self._kind is DescriptorKind.COPY

    @property
    def is_settled(self) -> bool:
        """Return whether the first attempt to lock the file is over."""
        return self.is_locked or self._descriptor is not None or self._unpinned_reason is not None

    def check_invariants(self) -> None:
        """Raise ValueError if an invariant is broken, naming it."""
        rule = _broken_rule(self._state, self._origin, self._pin, self._rival, self._descriptor)
        if rule is not None:
            raise ValueError(f"{self._state}: broken rule: {rule}")

    # -- the one setter -----------------------------------------------------------------------------------------------

    def move(
        self,
        new: GuardState,
        why: str,
        *,
        pin: Pin | None = None,
        rival: str | None = None,
        descriptor: int | None = None,
    ) -> None:
        """Change the state and report it. Pin, rival and descriptor become what is given, None by default.

        Raises ValueError, and changes nothing, if MOVES does not allow it or it would break an invariant.
        """
        old = self._state
        if new not in MOVES[old] and (new is not old or old is _S.RELEASED):
            raise ValueError(f"a guard cannot go from {old} to {new} ({why})")
        migrated = self.is_reserved and new in LOCKED
        origin = Origin.MIGRATED if migrated else self._origin
        rule = _broken_rule(new, origin, pin, rival, descriptor)
        if rule is not None:
            raise ValueError(f"{old} => {new}: broken rule: {rule} ({why})")
        self._state, self._origin = new, origin
        self._pin, self._rival, self._descriptor = pin, rival, descriptor
        if new is _S.PINNED:
            self._use = Use.IN_USE
        if new is not old:
            self._report(f"{old} => {new}: {why}")

    def _demand(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise ValueError(f"{self._state}: {otherwise}")

    # -- events: our descriptor ---------------------------------------------------------------------------------------

    def received(self, descriptor: int) -> None:
        """Take a descriptor from a hook, with the lock or with the reservation."""
        self._demand(self._descriptor is None, "a descriptor is there already")
        self.move(_S.INCOMING if self.is_reserved else _S.HELD, "handed over by its hook", descriptor=descriptor)
        self._kind = DescriptorKind.OWN

    def taken_over(self, descriptor: int | None) -> None:
        """Resume the guard of an earlier daemon. ``descriptor`` is the one that systemd kept, if any."""
        self._demand(self._descriptor is None, "a descriptor is there already")
        if self._state is not _S.PENDING:  # the state file says which; only an attempt to lock tells more
            self.move(self._state, "", rival=self._rival, descriptor=descriptor)
        elif descriptor is not None:
            self.move(_S.INCOMING if self.is_reserved else _S.HELD, "kept by systemd", descriptor=descriptor)
        elif not self._origin.is_found:
            self.move(_S.LOST, "its descriptor was lost with the earlier daemon")

    def copy_taken(self, descriptor: int) -> None:
        """Keep a copy of the pinned description from now on."""
        self._demand(self._descriptor is None and self._pin is not None, "no pinned description lacks a copy")
        self.move(self._state, "", pin=self._pin, rival=self._rival, descriptor=descriptor)
        self._kind = DescriptorKind.COPY

    def copy_dropped(self) -> int | None:
        """Give up our copy and return it, to be closed. Description and lock live on in the process."""
        self._demand(self._state is _S.PINNED, "only a pinned process keeps the lock")
        copy = self._descriptor
        self.move(self._state, "", pin=self._pin, rival=self._rival)
        return copy

    def closed(self, why: str) -> int | None:
        """End the guard. Return our descriptor, to be unlocked and closed; None if there is none."""
        descriptor = self._descriptor
        if self._state is not _S.RELEASED:
            self.move(_S.RELEASED, why)
        return descriptor

    # -- events: the lock ---------------------------------------------------------------------------------------------

    def pinned_on(self, pin: Pin, copy: int | None, granted: float | None) -> int | None:
        """Note that the process's description carries the lock; ``copy`` is our copy of it.

        Return the descriptor that we had before.
        """
        before = self._descriptor
        self.move(_S.PINNED, str(pin), pin=pin, descriptor=copy)
        self._kind, self._granted = DescriptorKind.COPY, granted
        self._unpinned_reason, self._retry = None, RetryNow()
        return before

    def held_beside(self, descriptor: int, why: str) -> int | None:
        """Note that the kernel forbids the pin, so the file is locked on a descriptor of our own.

        Return the descriptor that we had before.
        """
        before = self._descriptor
        self.move(_S.HELD, why, descriptor=descriptor)
        self._kind, self._granted = DescriptorKind.OWN, None
        return before

    def arrived(self, granted: float) -> None:
        """Note that the source of the migration has unlocked: our descriptor holds the whole lock now."""
        self._demand(self.is_reserved, "nothing was reserved")
        self.move(_S.HELD, "the host that the VM comes from has unlocked it", descriptor=self._descriptor)
        self._granted, self._retry = granted, RetryNow()

    def left_to_target(self) -> None:
        """Leave the file, to which the VM has stopped writing, to the host that the VM migrates to."""
        self.move(_S.OUTGOING, "the VM stopped writing; its target may lock it", descriptor=self._descriptor)

    def not_left_after_all(self) -> None:
        """Note that the VM uses the file here again, but it could not be locked."""
        if self._state is not _S.OUTGOING:
            return
        nothing = _S.PENDING if self._origin.is_found else _S.LOST
        new = nothing if self._descriptor is None else _S.HELD
        self.move(new, "the VM uses it here again", descriptor=self._descriptor)

    def conflict_with(self, rival: str) -> None:
        """Note that somebody else holds the file, although the VM may write to it."""
        self.move(_S.CONFLICT, rival, rival=rival, pin=self._pin, descriptor=self._descriptor)

    # -- events: scans and attempts -----------------------------------------------------------------------------------

    def seen_open(self) -> None:
        """Note that a process of the VM has the file open."""
        if self._use is Use.NEVER:
            self._use = Use.SEEN
        self._taken_into_use()

    def not_pinned(self, reason: str, retry: float) -> bool:
        """Note that a pin, or the scan for it, failed; retry at ``retry`` (CLOCK_BOOTTIME seconds) or later.

        Return whether the reason has changed.
        """
        self._retry = self._retry.no_earlier_than(retry)
        before, self._unpinned_reason = self._unpinned_reason, reason
        self._taken_into_use()
        return before != reason

    def _taken_into_use(self) -> None:
        if self._use is Use.SEEN and self._unpinned_reason is not None:
            self._use = Use.IN_USE

    def shared_by_writers(self) -> None:
        """Keep the lock shared: the file was claimed as shared, and several VMs write to it."""
        self._origin, self._retry = Origin.SHAREABLE, RetryNow()

    def retry_when(self, retry: Retry) -> None:
        """Set when the next attempt may be made, for another reason than a failed pin."""
        self._retry = retry

    # -- questions ----------------------------------------------------------------------------------------------------

    def is_shareable(self, mode: str, writers_share: bool) -> bool:
        """Return whether a file that is written may keep a shared lock.

        ``writers_share``: QEMU's image locks let others write.
        """
        may_be = self._origin is Origin.FOUND or (self._origin is Origin.SHARED_CLAIM and mode == SHARED)
        return self._origin is Origin.SHAREABLE or (may_be and writers_share)

    def may_try(self, wanted_mode: str, now: float) -> bool:
        """Return whether a pin may be tried now; at once if the VM writes again after a failed migration."""
        return self._retry.is_due(now) or (self._state is _S.OUTGOING and wanted_mode == EXCLUSIVE)

    # -- state files --------------------------------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """Return this part of a file's entry in the state file and in the answers to ``status``; schema 1."""
        pin = self._pin
        kept = self._state is not _S.PINNED and (self.has_copy or pin is not None)
        return {
            "guard": str(self._state),
            "was_pinned": kept,
            "weaker": self._unpinned_reason or "",
            "conflict": self._rival or "",
            "shareable": self._origin is Origin.SHAREABLE,
            "owned": self._origin.is_owned,
            "found": self._origin.is_found,
            "foothold": self.is_reserved,
            "through": f"descriptor {pin.fd} of pid {pin.pid}" if pin is not None else "",
            "process": pin.name if pin is not None else "",
        }

    @classmethod
    def from_claim(cls, value: dict[str, Any], report: Callable[[str], None] = lambda line: None) -> FileGuard:
        """Parse a file of a hook's claim; its descriptor arrives separately. Raises ValueError for a wrong time."""
        guard = cls(Origin.RESERVED if value.get("foothold") else Origin.of_claim(str(value["mode"])), report)
        guard._granted = float(value.get("granted", 0.0)) or None
        return guard

    @classmethod
    def from_json(cls, value: dict[str, Any], report: Callable[[str], None] = lambda line: None) -> FileGuard:
        """Parse an entry of an earlier daemon's state file. ``taken_over`` brings its descriptor, if any."""
        guard = cls(_origin(value), report)
        if value.get("guard") == _S.PINNED or value.get("was_pinned") is True:
            guard._use, guard._kind = Use.IN_USE, DescriptorKind.COPY
        elif value.get("weaker") and guard._use is Use.NEVER:  # a reason comes from a file that was found open
            guard._use = Use.SEEN
        rival = str(value.get("conflict") or "")
        if rival:
            guard._state, guard._rival, guard._retry = _S.CONFLICT, rival, RetryNow()
        elif value.get("guard") == _S.OUTGOING and not guard.is_reserved:
            guard._state = _S.OUTGOING
        guard.check_invariants()
        return guard


def _origin(value: dict[str, Any]) -> Origin:
    owned = value.get("owned", value.get("mode") == EXCLUSIVE)
    if value.get("foothold"):
        return Origin.RESERVED
    if value.get("found"):
        return Origin.RECOVERED if owned else Origin.FOUND
    if value.get("shareable"):
        return Origin.SHAREABLE
    return Origin.EXCLUSIVE_CLAIM if owned else Origin.SHARED_CLAIM
