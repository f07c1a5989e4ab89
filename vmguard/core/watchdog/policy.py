"""What may be done with a VM in trouble: by what is at stake, and by the admin's choices."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Stake(enum.StrEnum):
    """What the loss of a lock can cost its VM, and so what may be done about it at most."""

    #: a disk that the VM writes: freeze, fence
    VITAL = "vital"
    #: an image below such a disk, which the VM only reads: freeze, never fence
    BACKING = "backing"
    #: a medium that nobody writes (CD, ISO, firmware code) or pure output (dump, save): report, and lock again
    SPARE = "spare"


class OnAtRisk(enum.StrEnum):
    """What is done with a VM while nobody can know whether its locks still stand."""

    FREEZE = "freeze"
    FENCE = "fence"
    IGNORE = "ignore"


class OnLost(enum.StrEnum):
    """What is done with a VM that has lost a lock."""

    FENCE = "fence"
    FREEZE = "freeze"
    IGNORE = "ignore"


class OnConflict(enum.StrEnum):
    """What is done with a VM that writes to a disk whose lock another process or host has."""

    FREEZE = "freeze"
    FENCE = "fence"
    REPORT = "report"
    IGNORE = "ignore"


class AfterFence(enum.StrEnum):
    OFF = "off"
    RESTART = "restart"


class HostFence(enum.StrEnum):
    NONE = "none"
    WATCHDOG = "watchdog"


@dataclass(frozen=True)
class Policy:
    """The admin's choices for one VM."""

    on_at_risk: OnAtRisk = OnAtRisk.FREEZE
    on_lost: OnLost = OnLost.FENCE
    on_conflict: OnConflict = OnConflict.FREEZE
    #: seconds after which a VM frozen over a conflict is fenced if the conflict lasts; None: never
    conflict_grace: float | None = None
    after_fence: AfterFence = AfterFence.OFF
    host_fence: HostFence = HostFence.NONE
    #: decide and report everything, do nothing
    log_only: bool = False
    #: set the guest's clock through its agent after a thaw
    set_clock: bool = False
