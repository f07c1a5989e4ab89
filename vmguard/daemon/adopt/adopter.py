"""The operation ``adopt``: guards VMs that run already, without touching them.

request   ``{"op": "adopt", "names": [...], "all": false, "pid": 0, "dry_run": false, "seconds": 10}``
answer    one object for each VM: name, uuid, hypervisor, pid, ``result`` (a word of RESULTS), why, files
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vmguard.adapters.linux import clock
from vmguard.core.locks.claim_states import LIVING, State
from vmguard.core.sources.process_arguments import identity
from vmguard.daemon.adopt.unclaimed_qemu import Census, Stranger
from vmguard.daemon.fence.conflicts import Conflicts
from vmguard.daemon.pin.pinner import Pinner
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.loop import Loop
from vmguard.errors import BadInput
from vmguard.protocol.wire import Message

#: what became of a VM
RESULTS = {
    "adopted": "it was unguarded and is guarded now",
    "guarded": "it was guarded already",
    "conflict": "somebody else has the lock of one of its files",
    "pending": "the storage has not answered yet; the daemon goes on trying",
    "would-adopt": "it is unguarded; nothing was done (dry run)",
    "nothing": "it has no file open that could be guarded",
    "gone": "it ended just now",
}
#: seconds between two looks at whether all is settled
_AGAIN = 0.05
_LONGEST = 120.0
#: for the arguments of processes that have just been counted for the first time
_COUNT_S = 2.0
_COUNT_RETRY_S = 0.01

Reply = Callable[[list[dict[str, Any]] | BadInput], None]


class Adopter:
    """Answers one request after the other, in the loop's thread; nothing in it waits."""

    def __init__(
        self,
        loop: Loop,
        registry: Registry,
        census: Census,
        pinner: Pinner,
        conflicts: Conflicts,
        local: Callable[[], bool],
    ) -> None:
        """``local``: whether files on this host's own file systems are guarded, too."""
        self._loop = loop
        self._registry = registry
        self._census = census
        self._pinner = pinner
        self._conflicts = conflicts
        self._local = local

    def adopt(self, message: Message, reply: Reply) -> None:
        """Answer once; with BadInput when the request names nothing that runs here."""
        self._census.count()
        self._when_counted(clock.boottime() + _COUNT_S, functools.partial(self._adopt, message, reply))

    def _when_counted(self, deadline: float, then: Callable[[], None]) -> None:
        """Go on when the arguments of all processes are known, but for those that do not tell theirs."""
        if self._census.is_complete() or clock.boottime() >= deadline:
            then()
        else:
            self._loop.call_in(_COUNT_RETRY_S, functools.partial(self._when_counted, deadline, then))

    def _adopt(self, message: Message, reply: Reply) -> None:
        names = [str(name) for name in message.get("names") or []]
        pid, everything = int(message.get("pid") or 0), message.get("all") is True
        dry = message.get("dry_run") is True
        strangers = [one for one in self._census.strangers() if everything or _is_meant(one, names, pid)]
        vms = [
            vm
            for vm in self._registry
            if vm.state in LIVING and (everything or vm.name in names or vm.uuid in names or vm.process(pid))
        ]
        if pid and not strangers and not vms:
            hangs = self._census.hangs(pid)
            why = "does not tell its arguments: its memory is locked" if hangs else "is no QEMU that runs on this host"
            reply(BadInput(f"pid {pid} {why}"))
            return
        results = [_result(vm, "guarded") for vm in vms]
        following: list[tuple[GuardedVm, dict[str, Any]]] = []
        for vm, result in zip(vms, results, strict=True):
            if vm.state is State.CONFLICT and not dry:
                following.append((vm, result))
                self._pinner.try_again(vm)
        for stranger in strangers:
            self._take(stranger, dry, results, following)
        missing = [name for name in names if not any(name in (one["name"], one["uuid"]) for one in results)]
        results += [{**_nobody(name), "result": "gone", "why": "no such VM runs on this host"} for name in missing]
        deadline = clock.boottime() + min(float(message.get("seconds") or 10.0), _LONGEST)
        self._follow(following, results, reply, deadline)

    def _take(
        self,
        stranger: Stranger,
        dry: bool,
        results: list[dict[str, Any]],
        following: list[tuple[GuardedVm, dict[str, Any]]],
    ) -> None:
        images = self._census.images(stranger, self._local())
        if not images:
            results.append({**_about(stranger), "result": "nothing", "why": RESULTS["nothing"]})
        elif dry:
            wanted = [file.as_json() for file in images]
            results.append({**_about(stranger), "result": "would-adopt", "why": "", "files": wanted})
        else:
            keys = frozenset(file.key for file in images)
            vm = self._census.take_up(stranger, "adopted while it ran", keys)
            if vm is None:
                results.append({**_about(stranger), "result": "gone", "why": RESULTS["gone"]})
                return
            results.append(_result(vm, "adopted"))
            following.append((vm, results[-1]))

    def _follow(
        self, following: list[tuple[GuardedVm, dict[str, Any]]], results: list[dict[str, Any]], reply: Reply, end: float
    ) -> None:
        """Wait until every file has its lock or its refusal, then tell."""
        open_still = [item for item in following if not self._settled(item[0])]
        if open_still and clock.boottime() < end:
            self._loop.call_in(_AGAIN, lambda: self._follow(following, results, reply, end))
            return
        for vm, result in following:
            self._conflicts.let_go_on(vm)
            word = result["result"]
            if vm.state is State.CONFLICT:
                word = "conflict"
            elif vm.state not in LIVING:
                word = "gone"
            elif not self._settled(vm):
                word = "pending"
            result.update(_result(vm, word))
        reply(results)

    def _settled(self, vm: GuardedVm) -> bool:
        if vm.state not in LIVING:
            return True
        if self._pinner.has_in_hand(vm):
            return False
        return bool(vm.files) and all(file.pin or file.weaker or file.fd >= 0 for file in vm.files)


def _is_meant(stranger: Stranger, names: list[str], pid: int) -> bool:
    about = identity(stranger.arguments)
    return stranger.pid == pid or about.name in names or about.uuid in names or about.vmid in names


def _nobody(name: str) -> dict[str, Any]:
    return {"name": name, "uuid": "", "hypervisor": "", "pid": 0, "state": "", "files": []}


def _about(stranger: Stranger) -> dict[str, Any]:
    about = identity(stranger.arguments)
    return {**_nobody(about.name), "uuid": about.uuid, "pid": stranger.pid}


def _result(vm: GuardedVm, word: str) -> dict[str, Any]:
    return {**vm.as_json(), "result": word, "why": vm.why if word == "conflict" else ""}
