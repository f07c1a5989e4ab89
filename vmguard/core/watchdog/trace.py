"""Replay a host's history against the moves that the machine allows: pure.

The history is what the daemon reported, line by line (vmguard/daemon/report/history.py). Each line is one move of a
mount's lease, of a VM's stance, of a fence or of the maintenance mode, and what may follow what is known: from the same
tables by which the machine moves (states.py, stance.py, fence_ladder.py). So a line that is lacking, one too many, in
the wrong place or with wrong words is found, wherever it leaves a contradiction; a history can never be proven true.

A history may begin in the middle (its older half is dropped when it is full), and a daemon may end and another one
begin: what is not known contradicts nothing. A lock that is claimed, or released in peace, is not in it at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from vmguard.core.watchdog.fence_ladder import Rung
from vmguard.core.watchdog.stance import Stance
from vmguard.core.watchdog.states import DANGER, LEVELS, MOVES, Phase

_E, _W, _I = frozenset({"error"}), frozenset({"warning"}), frozenset({"info"})
#: every code of a history, with the levels that it may have
CODES: dict[str, frozenset[str]] = {
    **{f"mount.{phase}": frozenset({str(LEVELS.get(phase, "info"))}) for phase in Phase if phase is not Phase.IDLE},
    **dict.fromkeys(("mount.seen", "mount.kernel-log", "mount.new-session", "mount.probe-kind"), _I),
    **dict.fromkeys(("mount.identity-stolen", "mount.timing"), _E),
    "mount.lease-time": _W,
    "lock.lost": _E | _W,
    **dict.fromkeys(("lock.no-token", "lock.not-probed"), _W),
    **dict.fromkeys(("vm.fence", "vm.conflict", "vm.conflict-grace", "vm.ignored", "vm.lost-only-frozen"), _E),
    **dict.fromkeys(("vm.freeze-failed", "vm.thaw-failed", "vm.disk-replaced"), _E),
    **dict.fromkeys(("vm.freeze", "vm.not-pinned", "vm.still-frozen", "vm.adopted"), _W),
    **dict.fromkeys(("vm.thaw", "vm.fine-again", "vm.gone", "vm.ended", "vm.disk-back"), _I),
    "vm.conflict-over": _E | _W,
    **dict.fromkeys(("watch.disarmed", "watch.woke-up"), _W),
    "watch.armed": _I,
    **{f"fence.{rung}": _I | _E for rung in Rung},
    **dict.fromkeys(("fence.resumed", "fence.host-cancelled"), _W),
    **dict.fromkeys(("fence.host", "fence.no-restart"), _E),
    "start.refused": _W,
    "config.invalid": _E,
    "daemon.descriptors": _W | _I,
    **dict.fromkeys(("vm.unguarded", "notify.failed", "notify.dropped"), _W),
    **dict.fromkeys(("daemon.up", "notify.delivered"), _I),
}
#: rungs after which the VM is dead and its locks are gone: none of the others can follow
_BEHIND_DEATH = frozenset({Rung.RELEASE, Rung.CLEAN_UP, Rung.AFTER, Rung.DONE})
#: seconds that two clocks of one line may differ: it is rounded, and written after it was decided
_ROUNDED_S = 0.15
_MOVED = re.compile(r"(?<!\S)([a-z-]+) => ([a-z-]+): ")
_SPANS = re.compile(r"lease ([\d.]+) s; freeze ([\d.]+) s after|time is ([\d.]+) s now.*; freeze ([\d.]+) s after")


@dataclass(frozen=True)
class Fault:
    """A line that cannot follow the lines before it."""

    line: int
    code: str
    text: str


@dataclass
class _Mount:
    #: None: not known
    phase: Phase | None = None
    lease: float | None = None
    freeze: float | None = None


@dataclass
class _Vm:
    #: what was done; None: not known
    stance: Stance | None = None
    #: it was frozen over a conflict, and nobody let it go on
    held: bool = False
    #: a rival was reported; None: not known
    conflict: bool | None = None
    #: disks whose lock was reported lost, and may be so still
    lost: set[str] = field(default_factory=set)
    ever_lost: bool = False
    #: the rung of its fence, None: none is known
    rung: Rung | None = None
    #: a fence was announced
    fence: bool = False


class Trace:
    """One host's history, replayed. ``take`` takes line after line; ``faults`` collects what cannot be."""

    def __init__(self, whole: bool = False) -> None:
        """``whole``: it begins with the boot, so that what it does not say did not happen."""
        self.faults: list[Fault] = []
        self._whole = whole
        self._line = 0
        self._code = ""
        self._level = ""
        self._now = -math.inf
        self._mounts: dict[str, _Mount] = {}
        self._vms: dict[str, _Vm] = {}
        #: None: not known
        self._disarmed: bool | None = False if whole else None

    def take(self, entry: Mapping[str, object]) -> None:
        """Take the next line, as the history has it."""
        self._line += 1
        code, level, second = entry.get("code"), entry.get("level"), entry.get("boottime")
        self._code, self._level = str(code), str(level)
        fields = entry.get("fields")
        if not isinstance(second, int | float) or isinstance(second, bool) or not isinstance(fields, dict):
            self._wrong("it lacks its time or its fields")
            return
        if second < self._now:
            self._wrong(f"it was written {self._now - second:.3f} s before the line above it")
        self._now = max(self._now, float(second))
        if self._code not in CODES:
            self._wrong("no vmguard of this version reports that")
            return
        if level not in CODES[self._code]:
            self._wrong(f"its level is {level}")
        words = {str(name): str(value) for name, value in fields.items()}
        kind, _, what = self._code.partition(".")
        take = _TAKES.get(kind)
        if take is not None:
            take(self, what, str(entry.get("text", "")), words)

    def _wrong(self, text: str) -> None:
        self.faults.append(Fault(self._line, self._code, text))

    # -- maintenance --------------------------------------------------------------------------------------------------

    def _take_watch(self, what: str, _text: str, _fields: Mapping[str, str]) -> None:
        if what == "disarmed":
            self._disarmed = True
        elif what == "armed":
            if self._disarmed is False:
                self._wrong("it was not disarmed")
            self._disarmed = False

    def _check_done(self, fields: Mapping[str, str]) -> bool:
        """Return whether what is announced was done, and not only reported."""
        why = fields.get("not_done", "")
        if self._disarmed and not why:
            self._wrong("something was done while disarmed")
        if self._disarmed is False and why.startswith("disarmed"):
            self._wrong("it says that it was disarmed, and it was not")
        return not why

    # -- mounts -------------------------------------------------------------------------------------------------------

    def _take_mount(self, what: str, text: str, fields: Mapping[str, str]) -> None:
        name = fields.get("mount", "")
        if not name:
            self._wrong("it names no mount")
            return
        spans = _SPANS.search(text)
        if what == "seen":
            if name in self._mounts:
                self._new_daemon()
            self._mounts[name] = _Mount()
        mount = self._mounts.get(name)
        if mount is None:
            if self._whole and what != "timing":
                self._wrong(f"{name} was never seen before")
            mount = self._mounts[name] = _Mount()
        if what in ("seen", "lease-time") and spans is not None:
            mount.lease, mount.freeze = (float(word) for word in spans.groups() if word is not None)
        if what in frozenset(Phase):
            self._move(mount, Phase(what), text, fields)

    def _new_daemon(self) -> None:
        """Another daemon began: the phases are unknown, and so is whether a freeze was carried out."""
        self._mounts = {name: _Mount(None, mount.lease, mount.freeze) for name, mount in self._mounts.items()}
        for vm in self._vms.values():
            vm.stance, vm.held = None, False
            vm.lost.clear()

    def _move(self, mount: _Mount, new: Phase, text: str, fields: Mapping[str, str]) -> None:
        moved = _MOVED.search(text)
        words = moved.groups() if moved is not None else ("", "")
        if words[1] != new or words[0] not in frozenset(Phase) or fields.get("phase") != new:
            self._wrong(f"its words and its fields do not tell of a move to {new}")
            return
        old = Phase(words[0])
        if new not in MOVES[old]:
            self._wrong(f"no lease goes from {old} to {new}")
        # Without locks a mount is idle, which is not reported; and from there it may be anything by its age.
        if mount.phase is not None and old is not mount.phase and old not in MOVES[Phase.IDLE]:
            self._wrong(f"it was {mount.phase}, and not {old}")
        mount.phase = new
        least = {Phase.AT_RISK: mount.freeze, Phase.EXPIRED: mount.lease}.get(new)
        age = _number(fields.get("age", ""))
        if least is not None and age is not None and age < least - _ROUNDED_S:
            self._wrong(f"{new} at an age of {age:g} s, due at {least:g} s")

    # -- locks --------------------------------------------------------------------------------------------------------

    def _take_lock(self, what: str, _text: str, fields: Mapping[str, str]) -> None:
        if what != "lost":
            return
        if fields.get("verdict") != "lost" or not fields.get("evidence"):
            self._wrong("no verdict and evidence of a loss")
        if self._level == "error":  # else nobody's data depend on it
            vm = self._vm(fields)
            vm.ever_lost = True
            vm.lost.add(fields.get("disk", ""))

    # -- VMs ----------------------------------------------------------------------------------------------------------

    def _vm(self, fields: Mapping[str, str]) -> _Vm:
        name = fields.get("vm", "")
        if not name:
            self._wrong("it names no VM")
        if name not in self._vms:
            known = False if self._whole else None
            self._vms[name] = _Vm(Stance.RUNNING if self._whole else None, conflict=known)
        return self._vms[name]

    def _take_vm(self, what: str, text: str, fields: Mapping[str, str]) -> None:
        vm = self._vm(fields)
        if what in ("conflict", "adopted", "conflict-grace", "conflict-over"):
            self._take_conflict(vm, what)
        elif what == "freeze" and self._check_done(fields):
            if vm.stance not in (None, Stance.RUNNING):
                self._wrong(f"it was {vm.stance} already")
            vm.stance, vm.held = Stance.FROZEN, fields.get("need") == "conflict"
        elif what == "thaw" and "would be" not in text:
            self._thaw(vm)
        elif what == "ignored":
            vm.lost.clear()  # it runs on, may end in peace and start with other locks
        elif what == "fence":
            self._fence(vm, text, fields)
        elif what == "still-frozen" and vm.stance is Stance.FENCING:
            self._wrong("it is being fenced")
        elif what == "gone":
            self._vms[fields.get("vm", "")] = _Vm(None, rung=vm.rung, fence=vm.fence)
            for mount in self._mounts.values():
                mount.phase = None  # it may be idle now, and healthy with the next VM, without a word

    def _take_conflict(self, vm: _Vm, what: str) -> None:
        if what == "conflict":
            vm.conflict = True
        elif vm.conflict is False:
            self._wrong("no conflict was met before")
        elif what == "adopted":
            vm.conflict, vm.held = None, False

    def _thaw(self, vm: _Vm) -> None:
        if vm.stance not in (None, Stance.FROZEN):
            self._wrong(f"it was {vm.stance}, and not frozen")
        if vm.lost:
            self._wrong(f"its lock on {', '.join(sorted(vm.lost))} is lost")
        if vm.held:
            self._wrong("it was frozen over a conflict, and nobody let it go on")
        if self._mounts and all(mount.phase in DANGER for mount in self._mounts.values()):
            self._wrong("no server answers")
        vm.stance = Stance.RUNNING

    def _fence(self, vm: _Vm, text: str, fields: Mapping[str, str]) -> None:
        if "taking up the fence" not in text and not self._check_done(fields):
            vm.lost.clear()
            return
        if vm.stance is Stance.FENCING and "taking up the fence" not in text:
            self._wrong("it was being fenced already")
        need = fields.get("need", "")
        if need == "lost" and self._whole and not vm.ever_lost:
            self._wrong("no lock of it was reported lost")
        if need == "conflict" and vm.conflict is False:
            self._wrong("no conflict was met before")
        mount = self._mounts.get(fields.get("mount", ""))
        if need == "at_risk" and mount is not None and mount.phase not in (None, *DANGER):
            self._wrong(f"the mount is {mount.phase}")
        vm.stance, vm.fence, vm.rung = Stance.FENCING, True, None

    # -- fences -------------------------------------------------------------------------------------------------------

    def _take_fence(self, what: str, _text: str, fields: Mapping[str, str]) -> None:
        vm = self._vm(fields)
        if what == "resumed":
            vm.fence, vm.rung = True, None
        if not vm.fence and self._whole:
            self._wrong("no fence was announced")
        if what not in frozenset(Rung):
            return
        rung = Rung(what)
        if vm.rung is Rung.DONE or (vm.rung in _BEHIND_DEATH and rung not in _BEHIND_DEATH):
            self._wrong(f"{rung} behind {vm.rung}")
        vm.fence, vm.rung = True, rung


_Take = Callable[[Trace, str, str, Mapping[str, str]], None]
_TAKES: dict[str, _Take] = {
    "watch": Trace._take_watch,
    "mount": Trace._take_mount,
    "lock": Trace._take_lock,
    "vm": Trace._take_vm,
    "fence": Trace._take_fence,
}


def faults(entries: Iterable[Mapping[str, object]], whole: bool = False) -> list[Fault]:
    """Replay a history; return what cannot be, in its order."""
    trace = Trace(whole)
    for entry in entries:
        trace.take(entry)
    return trace.faults


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
