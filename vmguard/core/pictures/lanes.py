"""All lanes of one host's history: each line goes to its mount's lane, its VM's, or the host's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vmguard.core.pictures.bars import Lane, Mark, Sign
from vmguard.core.pictures.clocks import HostClock, Step, host_clock
from vmguard.core.pictures.entry import LOST, Entry
from vmguard.core.pictures.host_lane import HostLane
from vmguard.core.pictures.storage_lane import StorageLane
from vmguard.core.pictures.vm_lane import VmLane
from vmguard.core.watchdog import trace

_SEEN = "mount.seen"
#: lines after which a VM's mounts may have no lock any more
_MAYBE_IDLE = frozenset({"vm.gone", "vm.ended", "fence.release", "fence.done"})


@dataclass(frozen=True)
class HostPicture:
    """One host's history: its lines in their order, its lanes on its boot clock, and what is wrong with it."""

    host: str
    entries: tuple[Entry, ...]
    lanes: tuple[Lane, ...]
    #: None: no line has a time
    clock: HostClock | None
    #: lines that cannot follow those above them: some are lacking, or were changed
    faults: tuple[trace.Fault, ...] = ()


class _Lanes:
    """Takes the lines of one host in their order."""

    def __init__(self) -> None:
        self._host = HostLane()
        self._mounts: dict[str, StorageLane] = {}
        self._vms: dict[str, VmLane] = {}
        #: mounts that this daemon has told of
        self._seen: set[str] = set()
        self._last: float | None = None

    def take(self, entry: Entry) -> None:
        kind = entry.code.partition(".")[0]
        mount, vm = entry.field("mount"), self._key(entry)
        if entry.code == _SEEN:
            self._began(entry, mount)
        if kind == "mount" and mount:
            self._mounts.setdefault(mount, StorageLane(mount)).take(entry)
        elif kind in ("vm", "lock", "fence") and vm:
            self._vms.setdefault(vm, VmLane(vm)).take(entry)
            self._maybe_idle(entry, mount)
        elif kind == "start" and vm in self._vms:
            self._vms[vm].take(entry)
        else:
            self._host.take(entry)
        if entry.code == "watch.armed":
            for lane_of_vm in self._vms.values():
                lane_of_vm.armed(entry)
        self._last = entry.boottime

    def _maybe_idle(self, entry: Entry, mount: str) -> None:
        """A lock is gone: if it was the last one of its mount, nobody watches there any more."""
        if entry.code == LOST and mount in self._mounts:
            self._mounts[mount].maybe_idle(entry.boottime)
        elif entry.code in _MAYBE_IDLE:
            for lane in self._mounts.values():
                lane.maybe_idle(entry.boottime)

    def lanes(self, host: str, until: float) -> list[Lane]:
        """Return all lanes; the host's own first, then its mounts, then its VMs by name."""
        mounts = [self._mounts[name].lane(host, until) for name in sorted(self._mounts)]
        vms = sorted((lane.lane(host, until) for lane in self._vms.values()), key=lambda lane: _natural(lane.name))
        return [self._host.lane(host, until), *mounts, *vms]

    def _key(self, entry: Entry) -> str:
        """Return what tells this line's VM from the others; a refused start has no id."""
        uuid = entry.field("uuid")
        if entry.field("vm") or not uuid:
            return entry.field("vm")
        return next((name for name, lane in self._vms.items() if lane.is_of(uuid)), "")

    def _began(self, entry: Entry, mount: str) -> None:
        """A daemon tells each mount once: a mount that is told again is told by another daemon."""
        if self._last is None or not self._seen:
            self._host.began(entry, None)
        elif mount in self._seen:
            since = self._last
            self._host.began(entry, since)
            self._seen = set()
            for lane in self._mounts.values():
                lane.blind(since)
            for lane_of_vm in self._vms.values():
                lane_of_vm.blind(since)
        self._seen.add(mount)


def host_picture(host: str, entries: Sequence[Entry], until: float | None = None, whole: bool = False) -> HostPicture:
    """Turn a history into lanes.

    ``until``: up to when it is known that no line is lacking at its end (CLOCK_BOOTTIME; its last line without it).
    ``whole``: it begins with the boot, as ``trace.faults`` takes it.
    """
    ordered = sorted(entries, key=lambda entry: entry.boottime)
    found = _Lanes()
    for entry in ordered:
        found.take(entry)
    last = ordered[-1].boottime if ordered else 0.0
    faults = tuple(trace.faults([entry.json for entry in entries], whole))
    own, *others = found.lanes(host, max(last, until if until is not None else last))
    clock = host_clock(ordered)
    steps = [Mark(Sign.NOTE, step.before, _step_words(step)) for step in (clock.steps if clock is not None else ())]
    return HostPicture(host, tuple(ordered), (replace(own, marks=(*own.marks, *steps)), *others), clock, faults)


def _step_words(step: Step) -> str:
    return f"the wall clock was set by {step.by:+.0f} s, up to {step.before - step.after:.1f} s before this"


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts web9 before web10."""
    key: list[tuple[int, int, str]] = []
    digits = word = ""
    for char in f"{name}\0":
        if char.isascii() and char.isdigit():
            digits += char
            continue
        if digits:
            key += [(1, 0, word), (0, int(digits[:18]), digits)]
            digits = word = ""
        word += char
    return [*key, (1, 0, word)]
