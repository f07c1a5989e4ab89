"""A ``Watch`` as a tuple, and back: what a search keeps of the real machine.

All times are kept relative to ``now``, so that two runs that differ by the clock alone are one state. Times older than
OLD_S, which no comparison of the machine tells apart from older ones, keep their order and lose their distance; times
further ahead than FAR_S (the reminders) stay at that distance. What is due is due, however long. Words for people are
left out, and so is what the machine will not look at before it writes it anew.

FIELDS says for each class which attributes are times, which are plain, and which are left out and why that is right.
tests/model/test_frozen.py holds the tables to the classes: an attribute that is new there is missed here at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Hashable
from typing import Any

from vmguard.core.watchdog.events import Counters, LockInfo, VmInfo
from vmguard.core.watchdog.lease import MountLease
from vmguard.core.watchdog.machine import Watch
from vmguard.core.watchdog.stance import Vm
from vmguard.core.watchdog.states import Lock, Sessions
from vmguard.core.watchdog.timing import Wishes, timeline

#: more than the lease of a search, the longest span back that the machine compares
OLD_S = 3.5
FAR_S = 1000.0

State = tuple[Hashable, ...]


@dataclasses.dataclass(frozen=True)
class Fields:
    """The attributes of a class: times, plain values, and those that a state need not keep."""

    times: tuple[str, ...]
    plain: tuple[str, ...]
    left_out: tuple[str, ...]


FIELDS: dict[type, Fields] = {
    Watch: Fields(
        times=("disarmed_until",),
        plain=("disarmed_why",),
        # constant; the origin; kept apart; empty between two steps; said by wake_at() and by the VMs
        left_out=("wishes", "now", "mounts", "vms", "_effects", "_touched", "_wake", "_vm_due"),
    ),
    MountLease: Fields(
        times=("confirmed", "next_probe", "_look_at"),
        plain=("phase", "_past_is_known"),
        # constant; the origin; kept apart; empty between two steps; for people. A serial is a lock's own
        left_out=(
            *("name", "timeline", "now", "locks", "unsure", "waiting", "touched", "probes", "_sessions", "_order"),
            *("_serial", "_asks", "_reports", "_taken_over"),
        ),
    ),
    Lock: Fields(
        times=("doubt", "since", "suspect", "last_ask", "token_due"),
        plain=("info", "lost", "overdue"),
        # told apart by who has a request on its way; for slow rounds alone, of which a search has none; for people
        left_out=("serial", "kept_at", "blind", "evidence"),
    ),
    # that an identity is stolen is only reported, and a search has no thief
    Sessions: Fields(times=(), plain=("silent",), left_out=("_last", "_new", "_connected")),
    Vm: Fields(
        times=("again", "remind_at", "grace_ends"),
        plain=("info", "stance", "real", "need", "pending", "failures", "ignored", "conflict", "rivals_told"),
        # for people; for people; empty between two steps
        left_out=("why", "since", "effects"),
    ),
}


class _Origin:
    """Turns times into distances from now. Distances beyond OLD_S become ranks once all are known."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._seen: set[float] = set()
        self._ranks: dict[float, float] = {}

    def __call__(self, value: float | None) -> float | None:
        if value is None or math.isinf(value):
            return value
        distance = value - self.now
        if distance < -OLD_S:
            self._seen.add(distance)
            return self._ranks.get(distance, distance)
        return FAR_S if distance > FAR_S / 2 else distance

    @property
    def must_rank(self) -> bool:
        """Whether the state must be made once more, now that all old times are known."""
        if not self._seen or self._ranks:
            return False
        ordered = sorted(self._seen, reverse=True)
        self._ranks = {distance: -OLD_S - 1 - rank for rank, distance in enumerate(ordered)}
        return any(distance != rank for distance, rank in self._ranks.items())


def freeze(watch: Watch, sent: float | None = None) -> State:
    """Return the state of a watch with at most one mount, and of the request on its way, sent at ``sent``."""
    origin = _Origin(watch.now)
    state = _freeze(watch, sent, origin)
    return _freeze(watch, sent, origin) if origin.must_rank else state


def _freeze(watch: Watch, sent: float | None, origin: _Origin) -> State:
    mounts = tuple(_mount(mount, origin) for mount in watch.mounts.values())
    vms = tuple(_values(vm, origin) for vm in watch.vms.values())
    return (_values(watch, origin), mounts, vms, origin(sent))


def _values(thing: object, origin: _Origin) -> State:
    fields = _fields(thing)
    plain = tuple(_plain(getattr(thing, name)) for name in fields.plain)
    return tuple(origin(value) for value in _times(thing, fields, origin.now)) + plain


def _fields(thing: object) -> Fields:
    return FIELDS[Watch if isinstance(thing, Watch) else type(thing)]


def _times(thing: object, fields: Fields, now: float) -> list[float | None]:
    """Return the times of a part, without differences that cannot matter any more."""
    times = [getattr(thing, name) for name in fields.times]
    if isinstance(thing, MountLease):
        times[1:] = [max(when, now) for when in times[1:]]  # due is due
    elif isinstance(thing, Lock):
        doubt, _, suspect, asked, token_due = times
        since = None if doubt is None else thing.since
        answered = asked < now and (doubt is None or doubt > asked)
        times = [doubt, since, suspect, -math.inf if answered and asked + 1 <= now else asked, token_due]
        if thing.lost:
            times = [None, None, None, -math.inf, None]
    return times


def _plain(value: Any) -> Any:
    """Return a value without the time of its lock's grant: it counts only when the lock is new."""
    if isinstance(value, LockInfo):
        return dataclasses.replace(value, granted=None)
    if isinstance(value, VmInfo):
        return dataclasses.replace(value, locks=tuple(_plain(lock) for lock in value.locks))
    return value


def _mount(mount: MountLease, origin: _Origin) -> State:
    locks = tuple((_values(lock, origin), lock_id in mount.waiting) for lock_id, lock in mount.locks.items())
    order = tuple(list(mount.locks).index(lock_id) for lock_id in mount._order)
    sessions = mount._sessions
    return (_values(mount, origin), locks, order, _values(sessions, origin), sessions._last is not None)


def thaw(state: State, wishes: Wishes, lease: float, name: str = "nas") -> tuple[Watch, float | None]:
    """Return the watch of a state at time 0, and when its request on its way was sent."""
    own, mounts, vms, sent = state
    watch = Watch(wishes)
    watch.now = 0.0
    _set(watch, own)
    for mount_state in _items(mounts):
        watch.mounts[name] = _thaw_mount(mount_state, wishes, lease, name)
    for vm_state in _items(vms):
        vm = Vm(vm_state[len(FIELDS[Vm].times)])
        _set(vm, vm_state)
        watch.vms[vm.info.id] = vm
    watch._vm_due = min((vm.due() for vm in watch.vms.values()), default=math.inf)
    watch._wake = watch.wake_at()
    return watch, sent if isinstance(sent, float) else None


def _thaw_mount(state: Any, wishes: Wishes, lease: float, name: str) -> MountLease:
    own, locks, order, sessions, counted = state
    mount = MountLease(name, timeline(lease, wishes), 0.0)
    _set(mount, own)
    for number, (values, waits) in enumerate(locks, 1):
        lock = Lock(values[len(FIELDS[Lock].times)], number)
        _set(lock, values)
        mount.locks[lock.info.id] = lock
        if lock.doubt is not None:
            mount.unsure[lock.info.id] = lock
        if waits:
            mount.waiting.add(lock.info.id)
    mount._serial = len(locks)
    ids = list(mount.locks)
    mount._order = deque(ids[index] for index in order)
    _set(mount._sessions, sessions)
    mount._sessions._last = Counters(0.0, name, 0, 0) if counted else None
    return mount


def _set(thing: object, values: Any) -> None:
    fields = _fields(thing)
    for attribute, value in zip(fields.times + fields.plain, values, strict=True):
        if attribute == "since" and value is None:
            continue
        setattr(thing, attribute, value)


def _items(value: Any) -> tuple[Any, ...]:
    return tuple(value)
