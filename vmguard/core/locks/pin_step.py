"""What the pinner does next about one file, and how soon its VM is scanned again."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from vmguard.core.locks.file_guard import FileGuard
from vmguard.core.locks.guard_states import GuardState, Pin
from vmguard.core.locks.pin import Wish
from vmguard.core.locks.plan import EXCLUSIVE, SHARED
from vmguard.core.locks.retry import RetryAt

#: between two full scans of a VM when nothing seems to happen
_FULL_S = 60.0
#: between two full scans while something can happen that no cheap scan shows
_FULL_UNSETTLED_S = 1.0


class PinStep(enum.Enum):
    #: pinned as it should be: only see to it that its opens are told
    WATCH = enum.auto()
    #: pinned as it should be, but our copy of the description must go
    DROP_COPY = enum.auto()
    #: another step would be due, but not now
    WAIT = enum.auto()
    #: move the lock onto the wanted description, or take a copy of it
    PIN = enum.auto()


def next_step(guard: FileGuard, mode: str, wanted: Wish, keep_copy: bool, now: float) -> PinStep:
    """Return the step for a file whose lock has ``mode``. ``keep_copy``: a copy of the description shall stay here."""
    pin = Pin(wanted.target.pid, wanted.target.fd)
    has_descriptor = guard.descriptor is not None
    if wanted.satisfied and guard.state is GuardState.PINNED and guard.pin == pin:
        if has_descriptor == keep_copy:
            return PinStep.WATCH
        if has_descriptor:
            return PinStep.DROP_COPY
    elif guard.pin is None and has_descriptor and mode == EXCLUSIVE and wanted.mode == SHARED:
        return PinStep.WAIT  # claimed for writing, and QEMU only probes its format first: nothing is given up for that
    return PinStep.PIN if guard.may_try(wanted.mode, now) else PinStep.WAIT


def needs_frequent_scans(guard: FileGuard, mode: str, opens_are_told: bool, is_written: bool) -> bool:
    """Whether a change may be missed: the kernel does not tell of the file's opens, or QEMU may write to it and lets
    others write, too, for now. The image locks that say so come and go without an open."""
    return (guard.pin is not None and not opens_are_told) or (mode == SHARED and is_written)


def next_full_scan(guards: Sequence[FileGuard], unsettled: bool, now: float) -> float:
    """Return when a VM is scanned fully whatever the cheap scans show, in CLOCK_BOOTTIME seconds: each retry is one."""
    retries = [guard.retry for guard in guards if guard.unpinned_reason is not None]
    waiting = [retry.seconds for retry in retries if isinstance(retry, RetryAt) and not retry.is_due(now)]
    return min([now + (_FULL_UNSETTLED_S if unsettled else _FULL_S), *waiting])
