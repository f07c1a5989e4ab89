"""All time spans of the watchdog, derived from one number: the server's lease.

They count from ``confirmed``, the time (CLOCK_BOOTTIME) at which the last ANSWERED request was SENT. The server
renewed the lease when that request arrived, so not earlier; nobody else can hold the locks before
``confirmed + lease`` (RFC 8881, 8.3). Server and client count seconds, not clock times: NTP does not matter.

The relations, all checked by ``Timeline.check``::

    2 probe <= late                 a single lost answer is no event
    late < freeze = lease - margin  there is a warning before the freeze; so margin < 2/3 lease
    slack <= margin                 slack = tick + signal + drift: noticing late, stopping every VM, clocks of
                                    different speed. Then every VM is stopped when the lease ends.
    lease <= grace                  of the server: else a rebooted server could give a lock away before the freeze

What happens in an outage that begins just after the request at second 0 (``vmguard timing`` draws it)::

    lease 10 s  lease 30 s  lease 90 s
       0.0         0.0         0.0      the last request that gets an answer is sent
       1.0         3.0         9.0      the first request without an answer is sent
       3.3        10.0        30.0      LATE: warn, ask more often
       8.0        24.0        72.0      AT RISK: freeze every VM with a disk there
       9.5        25.5        73.5      all of them stand still at the latest
      10.0        30.0        90.0      EXPIRED: from here on another host may get the locks

and when the server answers again, counted from its first answer::

    lease 10 s  lease 30 s  lease 90 s
       0.0         0.0         0.0      RECOVERING: every lock is asked through its own descriptor
       1.7         5.0         5.0      a lock without an answer is UNKNOWN by now: its VM stays frozen
      10.0        30.0        90.0      a rebooted server's grace period ends, if it is as short as it may be
     600.0       600.0       600.0      a VM that is still frozen is reported again, and so on

A storage reboot shorter than ``freeze`` stops no VM; a longer one stops them until the verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

#: the loop reads the boot clock at least this often (vmguard/daemon/runtime/loop.py)
TICK_S = 1.0
#: from the decision to freeze until the last of a thousand VMs is stopped
SIGNAL_S = 0.5
#: relative difference between two clocks that count seconds; a bad quartz has 1e-4
DRIFT = 5e-4


class ImpossibleTiming(ValueError):
    """Time spans that contradict each other. The message is for the admin."""


@dataclass(frozen=True)
class Wishes:
    """The admin's settings, in seconds; None: derived from the lease."""

    margin: float | None = None
    probe: float | None = None
    #: each lock is probed at least once in this time, also when nothing happens
    slow_round: float = 300.0
    #: a VM that stays frozen is reported again after this time
    remind: float = 600.0
    tick: float = TICK_S
    signal: float = SIGNAL_S
    #: the server's grace period, if known; else it is assumed to be as long as the lease
    grace: float | None = None


@dataclass(frozen=True)
class Rungs:
    """Deadlines (s) for the proofs of the fence ladder (vmguard/core/watchdog/fence_ladder.py)."""

    copy: float = 0.2
    kill: float = 0.5
    death: float = 5.0
    drain: float = 10.0
    cut: float = 5.0
    release: float = 30.0
    clean_up: float = 60.0


@dataclass(frozen=True)
class Timeline:
    """All spans for one lease time, in seconds. Ages count from ``confirmed``."""

    lease: float
    margin: float
    #: probe interval while all is well
    probe: float
    #: probe interval otherwise
    urgent: float
    #: ages at which the mount's phase changes
    late: float
    freeze: float
    #: from this age on another host may own the locks
    expiry: float
    #: the latest completion of a freeze, counted from the age at which it is due
    slack: float
    #: the shortest grace period that a server with this lease may have
    grace: float
    #: time to resolve a doubt about a lock of a running VM; after it the VM is frozen
    verdict: float
    #: time to prove a freeze or thaw; after it the failure is reported and the action retried
    proof: float
    slow_round: float
    remind: float
    rungs: Rungs

    def check(self) -> None:
        """Check the relations. Raises ImpossibleTiming with a sentence for the admin."""
        if not 0 < self.lease <= 86400:
            raise ImpossibleTiming(f"a lease of {_s(self.lease)} is none; servers have 10 s to 3600 s")
        if self.freeze <= self.late:
            raise ImpossibleTiming(
                f"margin {_s(self.margin)} is too long for a lease of {_s(self.lease)}: it must be shorter than"
                f" {_s(self.lease * 2 / 3)}, two thirds of the lease, else VMs are frozen before anything is late"
            )
        if self.margin < self.slack:
            raise ImpossibleTiming(
                f"margin {_s(self.margin)} is too short for a lease of {_s(self.lease)}: to notice and to stop all VMs"
                f" can take {_s(self.slack)}, and they must stand still before the lease ends"
            )
        if self.probe <= 0 or 2 * self.probe > self.late:
            raise ImpossibleTiming(
                f"probing every {_s(self.probe)} does not suit a lease of {_s(self.lease)}: at most every"
                f" {_s(self.late / 2)}, a sixth of the lease, else a single lost answer is an alarm"
            )
        if self.grace < self.lease:
            raise ImpossibleTiming(
                f"the server's grace period of {_s(self.grace)} is shorter than its lease of {_s(self.lease)}: after a"
                " reboot it could give a lock to another host before this host can know; make it as long as the lease"
            )
        if self.slow_round < self.probe or self.remind <= 0:
            raise ImpossibleTiming(f"a slow round of {_s(self.slow_round)} is shorter than one probe interval")

    def outage(self) -> list[tuple[float, str]]:
        """Return an outage that begins just after second 0, as (second, what happens)."""
        return [
            (0.0, "the last request that gets an answer is sent"),
            (self.probe, "the first request without an answer is sent"),
            (self.late, "LATE: warn, ask more often"),
            (self.freeze, "AT RISK: freeze every VM with a disk there"),
            (self.freeze + self.slack, "all of them stand still at the latest"),
            (self.expiry, "EXPIRED: from here on another host may get the locks"),
        ]

    def recovery(self) -> list[tuple[float, str]]:
        """Return what follows when the server answers again at second 0, as (second, what happens)."""
        return [
            (0.0, "RECOVERING: every lock is asked through its own descriptor"),
            (self.verdict, "a lock without an answer is UNKNOWN by now: its VM stays frozen"),
            (self.grace, "a rebooted server's grace period ends, if it is as short as it may be"),
            (self.remind, "a VM that is still frozen is reported again, and so on"),
        ]


def timeline(lease: float, wishes: Wishes | None = None) -> Timeline:
    """Return the time spans for a lease (s). Raises ImpossibleTiming when the wishes do not suit it.

    >>> timeline(30).freeze
    24.0
    """
    wishes = wishes or Wishes()
    least = wishes.tick + wishes.signal
    margin = wishes.margin if wishes.margin is not None else min(max(lease / 5, least + 0.5), 30.0)
    probe = wishes.probe if wishes.probe is not None else min(lease / 10, 10.0)
    made = Timeline(
        lease=lease,
        margin=margin,
        probe=probe,
        urgent=min(probe / 2, 1.0),
        late=lease / 3,
        freeze=lease - margin,
        expiry=lease,
        slack=least + DRIFT * lease,
        grace=wishes.grace if wishes.grace is not None else lease,
        verdict=min(lease / 6, 5.0),
        proof=1.0,
        slow_round=wishes.slow_round,
        remind=wishes.remind,
        rungs=Rungs(),
    )
    made.check()
    return made


def _s(seconds: float) -> str:
    return f"{seconds:.4g} s"


def silence_words(confirmed: float, taken_over: float, now: float) -> str:
    """Say for how long a server has been silent. While no daemon ran, from ``confirmed`` on, nobody asked it."""
    if confirmed >= taken_over:
        return f"no request of the last {now - confirmed:.1f} s was answered"
    gap, since = taken_over - confirmed, now - taken_over
    return f"no daemon asked for {gap:.1f} s, and no request of the {since:.1f} s since then was answered"
