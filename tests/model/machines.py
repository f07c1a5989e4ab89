"""The real machine as a function from state and event to state and orders, computed once for each pair."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.model.frozen import State, freeze, thaw
from vmguard.core.watchdog.events import (
    Act,
    Acted,
    Answer,
    Counters,
    Disarm,
    Effect,
    Event,
    Fence,
    Freeze,
    LockId,
    LockInfo,
    MountSeen,
    Probe,
    Thaw,
    Tick,
    Token,
    VmGone,
    VmInfo,
    VmSeen,
)
from vmguard.core.watchdog.machine import Watch
from vmguard.core.watchdog.policy import Policy
from vmguard.core.watchdog.timing import Wishes

MOUNT, VM = "nas", "web"
LOCK = LockId(VM, (1, zlib.crc32(b"web.qcow2")))

#: what a host is told, as the search names it; the second field and those behind it are the event's own
Told = tuple[str | int | bool | float | None, ...]


class Broken(Exception):
    """The machine has broken one of its own sentences."""


class Move(NamedTuple):
    """What came of an event: the new state, the orders for the hand, and whether a request was sent (2: with token)."""

    state: int
    orders: tuple[str, ...]
    asked: int


@dataclass(frozen=True)
class Setup:
    """What is the same in a whole search."""

    lease: int = 3
    policy: Policy = field(default_factory=Policy)
    #: whether the watchdog knows the epochs of its claims
    token: bool = True
    pinned: bool = True
    #: seconds before the lease's end at which VMs are frozen
    margin: float = 1.0
    #: whether everything is only reported
    disarmed: bool = False

    @property
    def wishes(self) -> Wishes:
        """One second is the grain of time; reminders and slow rounds are beyond any horizon."""
        return Wishes(margin=self.margin, probe=self.lease / 6, tick=0.4, signal=0.3, slow_round=1e9, remind=1e6)


class Machines:
    """All states of the real machine that a search has met, by number; 0 is a daemon that guards no VM."""

    def __init__(self, setup: Setup, watch: type[Watch] = Watch) -> None:
        """``watch``: the machine itself, or a broken one for a control."""
        self.setup = setup
        self._watch = watch
        self._wishes = setup.wishes
        self._numbers: dict[State, int] = {}
        self._states: list[State] = []
        self._moves: dict[tuple[int, Told], Move] = {}
        #: steps that were really taken
        self.steps = 0
        self.fresh = self._number(freeze(self._new()))

    def _new(self) -> Watch:
        watch = self._watch(self._wishes)
        watch.now = 0.0
        if self.setup.disarmed:
            watch.step(Disarm(0.0, float("inf"), "a control"))
        return watch

    def _number(self, state: State) -> int:
        number = self._numbers.get(state)
        if number is None:
            number = self._numbers[state] = len(self._states)
            self._states.append(state)
        return number

    def __len__(self) -> int:
        return len(self._states)

    def tell(self, number: int, told: Told) -> Move:
        """Let the machine in this state take an event. Raises Broken when it breaks a sentence of its own."""
        key = (number, told)
        move = self._moves.get(key)
        if move is None:
            move = self._moves[key] = self._tell(number, told)[0]
        return move

    def say(self, number: int, told: Told) -> list[Effect]:
        """Return all that the machine says to this event, for people."""
        return self._tell(number, told)[1]

    def confirmed(self, number: int) -> float | None:
        """Return how long ago the lease was last known to be alive, as the daemon keeps it in its state file."""
        watch, _ = self._thaw(number)
        return watch.mounts[MOUNT].confirmed if watch.mounts else None

    def is_waiting(self, number: int) -> bool:
        """Return whether a request is on its way."""
        return self._states[number][3] is not None

    def _thaw(self, number: int) -> tuple[Watch, float | None]:
        watch, sent = thaw(self._states[number], self._wishes, self.setup.lease, MOUNT)
        watch.__class__ = self._watch
        return watch, sent

    def _tell(self, number: int, told: Told) -> tuple[Move, list[Effect]]:
        watch, sent = self._thaw(number)
        if told[0] == "restart":
            watch, sent = self._new(), None
        effects: list[Effect] = []
        self.steps += 1
        try:
            for event in self._events(watch, told, sent):
                effects += watch.step(event)
        except (AssertionError, ValueError) as problem:
            raise Broken(f"told {told[0]}, the machine says: {problem}") from problem
        if told[0] in ("answer", "gone"):
            sent = None
        orders: list[str] = []
        asked = 0
        for effect in effects:
            if isinstance(effect, Probe):
                if sent is not None or len(effect.asks) != 1:
                    raise Broken(f"a second request for one lock is sent while the first is on its way: {effect}")
                sent, asked = watch.now, 1 + effect.asks[0].token
            elif isinstance(effect, Freeze | Thaw | Fence):
                orders.append(type(effect).__name__.lower())
        return Move(self._number(freeze(watch, sent)), tuple(orders), asked), effects

    def _events(self, watch: Watch, told: Told, sent: float | None) -> list[Event]:
        """Return an event of the search as the machine knows it, at its own time 0."""
        match told:
            case ("tick",):
                return [Tick(1.0)]
            case ("start", int(epoch)):
                return [MountSeen(0.0, MOUNT, float(self.setup.lease)), VmSeen(0.0, self._info(epoch, 0.0))]
            case ("restart", int(epoch), bool(frozen), bool(fencing), age):
                assert age is None or isinstance(age, float)
                info = self._info(epoch, None, frozen, "a lock is lost" if fencing else "")
                return [MountSeen(0.0, MOUNT, float(self.setup.lease), age), VmSeen(0.0, info)]
            case ("gone",):
                return [VmGone(0.0, VM)]
            case ("acted", str(act)):
                return [Acted(0.0, VM, Act(act), True)]
            case ("counters", bool(again)):
                return [Counters(0.0, MOUNT, int(again), int(again), 0, 0, int(again))]
            case ("answer", str(problem), bool(reached), token):
                assert sent is not None
                assert token is None or isinstance(token, int)
                serial = watch.mounts[MOUNT].locks[LOCK].serial if LOCK in watch.mounts[MOUNT].locks else 0
                newest = None if token is None else Token(token, "the other host")
                return [Answer(0.0, MOUNT, LOCK, serial, sent, problem, reached, True, "", newest)]
        raise AssertionError(f"no event: {told}")

    def _info(self, epoch: int, granted: float | None, frozen: bool = False, fencing: str = "") -> VmInfo:
        token = epoch if self.setup.token else None
        lock = LockInfo(LOCK, MOUNT, f"{MOUNT}:web.qcow2", self.setup.pinned, granted, "fd", token)
        return VmInfo(VM, f"VM '{VM}'", (lock,), self.setup.policy, True, frozen, fencing)
