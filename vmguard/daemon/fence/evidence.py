"""The progress of one fence: what must survive the daemon, and the evidence as it is now."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from vmguard.adapters import hypervisors
from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.linux import proc
from vmguard.core.locks.claim_states import LIVING, State
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.watchdog.events import Cause
from vmguard.core.watchdog.fence_ladder import FencedProcess, FenceEvidence, Life, Others, Rung
from vmguard.core.watchdog.policy import AfterFence, HostFence, Policy
from vmguard.core.words import vm_title
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.runtime.loop import Timer


@dataclass
class FenceProgress:
    """One VM's fence. Only what ``as_json`` returns is persisted; a later daemon looks up everything else."""

    id: str
    name: str
    uuid: str
    hypervisor: str
    evidence: str
    policy: Policy
    pid: int = 0
    #: None once its locks are released
    vm: GuardedVm | None = None
    cause: Cause = Cause.LOST
    since: dict[Rung, float] = field(default_factory=dict)
    began: float = 0.0
    mounts: set[str] = field(default_factory=set)
    rung: Rung | None = None
    sentence: str = ""
    alarmed: set[Rung] = field(default_factory=set)
    killed: set[int] = field(default_factory=set)
    #: a cut, clean-up or start is under way
    busy: bool = False
    #: when the next one may begin
    again: float = 0.0
    followed: bool = False
    #: the hypervisor was asked to clean up, and reported success
    tidied: bool = False
    pause: float = 0.0
    timer: Timer | None = None

    @property
    def title(self) -> str:
        return vm_title(self.name)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "uuid": self.uuid,
            "hypervisor": self.hypervisor,
            "evidence": self.evidence,
            "cause": str(self.cause),
            "pid": self.pid,
            "after_fence": str(self.policy.after_fence),
            "host_fence": str(self.policy.host_fence),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FenceProgress:
        """Read a state file. Raises KeyError, TypeError or ValueError when the value is no fence."""
        return cls(
            id=str(value["id"]),
            name=str(value["name"]),
            uuid=str(value["uuid"]),
            hypervisor=str(value["hypervisor"]),
            evidence=str(value["evidence"]),
            policy=Policy(after_fence=AfterFence(value["after_fence"]), host_fence=HostFence(value["host_fence"])),
            pid=int(value["pid"]),
            cause=Cause(value.get("cause", Cause.LOST)),
        )


def evidence(fence: FenceProgress, others: Others, run_dirs: RunDirs) -> FenceEvidence:
    """Collect the evidence that ``fence_ladder.next_rung`` judges. No call here touches the share."""
    vm = fence.vm
    if vm is None:  # it was released only on proof of all the earlier steps
        return FenceEvidence(
            processes=(),
            pinned=True,
            copied=True,
            drained=True,
            others=Others.NONE,
            released=True,
            cleaned=_cleaned(fence, run_dirs),
            followed=fence.followed,
        )
    releasing = vm.state is State.RELEASING
    return FenceEvidence(
        processes=tuple(_processes(fence, vm)),
        pinned=releasing or all(file.guard.is_on_process for file in vm.files if file.mode == EXCLUSIVE),
        copied=releasing or has_copies(vm),
        drained=vm.drained or releasing,
        others=others,
        released=False,
        cleaned=False,
        followed=False,
    )


def has_copies(vm: GuardedVm) -> bool:
    """Return whether we hold a copy of each description that carries an exclusive lock.

    Once such a lock is lost, requests still queued on that description end as EIO while the copy is open.
    """
    guards = [file.guard for file in vm.files if file.mode == EXCLUSIVE and file.guard.is_on_process]
    return all(guard.descriptor is not None for guard in guards)


def _processes(fence: FenceProgress, vm: GuardedVm) -> list[FencedProcess]:
    fence.pid = vm.pid
    found = [
        FencedProcess(p.name or str(p.kind), p.pid, _life(p.pid, p.pidfd), p.pid in fence.killed) for p in vm.vouched
    ]
    if vm.state in LIVING and vm.main is None:  # after a restart, until its pid file's process is identified
        found.append(FencedProcess("QEMU", vm.pid, Life.UNKNOWN))
    return found


def _life(pid: int, pidfd: int) -> Life:
    if proc.is_dead(pidfd):
        return Life.DEAD
    try:
        threads = {int(name): proc.thread_state(pid, int(name)) for name in os.listdir(f"/proc/{pid}/task")}
    except OSError:
        return Life.UNKNOWN
    if "D" in threads.values():
        return Life.BLOCKED
    return Life.LEADER_GONE if threads.get(pid) == "Z" and len(threads) > 1 else Life.RUNNING


def _cleaned(fence: FenceProgress, run_dirs: RunDirs) -> bool:
    """Return whether the hypervisor believes that the VM has ended.

    libvirt keeps a status file for each VM that it believes to run; for Proxmox the pid file tells.
    """
    return fence.tidied or not _believes_running(fence, run_dirs) or runs_again(fence, run_dirs)


def _believes_running(fence: FenceProgress, run_dirs: RunDirs) -> bool:
    return hypervisors.by_name(fence.hypervisor).believes_running(run_dirs, fence.name, fence.uuid)


def runs_again(fence: FenceProgress, run_dirs: RunDirs) -> bool:
    """Return whether HA or a person has started the VM again already.

    The pid file proves it when it names another process than the fenced one: it was written since.
    """
    return hypervisors.candidate(run_dirs, fence.hypervisor, fence.name, fence.uuid) not in (0, fence.pid)
