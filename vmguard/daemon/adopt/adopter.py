"""The operation ``adopt``: guard VMs that run already, without touching them (vmguard/protocol/adoption.py)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vmguard.core.locks.claim_states import LIVING, State
from vmguard.core.watchdog.events import Adopted, Event
from vmguard.daemon.adopt.unclaimed_process import UnclaimedProcess
from vmguard.daemon.adopt.unclaimed_qemu import UnclaimedQemus
from vmguard.daemon.pin.pinner import Pinner
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.loop import Loop
from vmguard.errors import BadInput
from vmguard.protocol.adoption import RESULTS, AdoptRequest, AdoptResult

#: interval of the checks whether every file is settled
_POLL_S = 0.05
#: longest wait for that, whatever the request allows
_MAX_WAIT_S = 120.0
#: wait for the arguments of processes that a count has just found for the first time
_COUNT_S = 2.0
_COUNT_RETRY_S = 0.01

Reply = Callable[[list[dict[str, Any]] | BadInput], None]


class Adopter:
    """The executor of ``adopt`` requests, in the loop's thread; it never waits."""

    def __init__(
        self,
        loop: Loop,
        registry: Registry,
        unclaimed_qemus: UnclaimedQemus,
        pinner: Pinner,
        feed: Callable[[Event], None],
        local: Callable[[], bool],
    ) -> None:
        """``feed`` gives the watchdog an event. ``local`` returns whether local files are guarded, too."""
        self._loop = loop
        self._registry = registry
        self._unclaimed_qemus = unclaimed_qemus
        self._pinner = pinner
        self._feed = feed
        self._local = local

    def adopt(self, request: AdoptRequest, reply: Reply) -> None:
        """Carry out a request and call ``reply`` once; with BadInput when it names nothing that runs here."""
        self._unclaimed_qemus.count()
        self._when_counted(self._loop.now() + _COUNT_S, functools.partial(self._adopt, request, reply))

    def _when_counted(self, deadline: float, then: Callable[[], None]) -> None:
        """Call ``then`` once all processes' arguments are known, except for reads that hang, or at the deadline."""
        if self._unclaimed_qemus.is_complete() or self._loop.now() >= deadline:
            then()
        else:
            self._loop.call_in(_COUNT_RETRY_S, functools.partial(self._when_counted, deadline, then))

    def _adopt(self, request: AdoptRequest, reply: Reply) -> None:
        names, pid, everything, dry = request.names, request.pid, request.everything, request.dry_run
        unclaimed = [one for one in self._unclaimed_qemus.unclaimed() if everything or _is_meant(one, names, pid)]
        vms = [
            vm
            for vm in self._registry
            if vm.state in LIVING and (everything or vm.name in names or vm.uuid in names or vm.process(pid))
        ]
        if pid and not unclaimed and not vms:
            hangs = self._unclaimed_qemus.hangs(pid)
            why = "does not tell its arguments: its memory is locked" if hangs else "is no QEMU that runs on this host"
            reply(BadInput(f"pid {pid} {why}"))
            return
        results = [_result(vm, "guarded") for vm in vms]
        #: VMs whose result is not final yet, and its index in the results
        following: list[tuple[GuardedVm, int]] = []
        for index, vm in enumerate(vms):
            if vm.state is State.CONFLICT and not dry:
                following.append((vm, index))
                self._pinner.try_again(vm)
        for process in unclaimed:
            taken, result = self._take(process, dry, by_pid=process.pid == pid)
            results.append(result)
            if taken is not None:
                following.append((taken, len(results) - 1))
        missing = [name for name in names if not any(name in (one.name, one.uuid) for one in results)]
        results += [AdoptResult(_nobody(name), "gone", "no such VM runs on this host") for name in missing]
        deadline = self._loop.now() + min(request.seconds, _MAX_WAIT_S)
        self._follow(following, results, reply, deadline)

    def _take(self, process: UnclaimedProcess, dry: bool, by_pid: bool) -> tuple[GuardedVm | None, AdoptResult]:
        """Guard an unguarded QEMU, unless ``dry``. Return its VM if its locks are still to come, and its result."""
        images = self._unclaimed_qemus.images(process, self._local())
        if not images:
            return None, AdoptResult(_about(process), "nothing", RESULTS["nothing"])
        if not by_pid and self._unclaimed_qemus.is_strangers(process):
            return None, AdoptResult(_about(process), "stranger", RESULTS["stranger"])
        if dry:
            files = [file.as_json() for file in images]
            return None, AdoptResult({**_about(process), "files": files}, "would-adopt")
        keys = frozenset(file.key for file in images)
        vm = self._unclaimed_qemus.take_up(process, "adopted while it ran", keys)
        if vm is None:
            return None, AdoptResult(_about(process), "gone", RESULTS["gone"])
        return vm, _result(vm, "adopted")

    def _follow(
        self, following: list[tuple[GuardedVm, int]], results: list[AdoptResult], reply: Reply, end: float
    ) -> None:
        """Poll until every file has its lock or its refusal, then reply."""
        open_still = [item for item in following if not self._settled(item[0])]
        if open_still and self._loop.now() < end:
            self._loop.call_in(_POLL_S, functools.partial(self._follow, following, results, reply, end))
            return
        for vm, index in following:
            if vm.state is State.CONFLICT:
                self._feed(Adopted(self._loop.now(), vm.id))
            word = results[index].result
            if vm.state is State.CONFLICT:
                word = "conflict"
            elif vm.state not in LIVING:
                word = "gone"
            elif not self._settled(vm):
                word = "pending"
            results[index] = _result(vm, word)
        reply([result.as_json() for result in results])

    def _settled(self, vm: GuardedVm) -> bool:
        if vm.state not in LIVING:
            return True
        if self._pinner.has_in_hand(vm):
            return False
        return bool(vm.files) and all(file.guard.is_settled for file in vm.files)


def _is_meant(process: UnclaimedProcess, names: tuple[str, ...], pid: int) -> bool:
    about = process.about
    return process.pid == pid or about.name in names or about.uuid in names or about.vmid in names


def _nobody(name: str) -> dict[str, Any]:
    return {"name": name, "uuid": "", "hypervisor": "", "pid": 0, "state": "", "files": []}


def _about(process: UnclaimedProcess) -> dict[str, Any]:
    about = process.about
    return {**_nobody(about.name), "uuid": about.uuid, "pid": process.pid}


def _result(vm: GuardedVm, word: str) -> AdoptResult:
    return AdoptResult(vm.as_json(), word, vm.why if word == "conflict" else "")
