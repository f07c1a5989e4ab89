"""The requests of the hooks: a claim from its first message to its owner records, and hints about starts and ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from vmguard.adapters import hypervisors
from vmguard.adapters.linux import proc
from vmguard.core.locks.claim_states import LIVING, SENTENCES, State
from vmguard.core.locks.plan import MODES
from vmguard.core.words import vm_title
from vmguard.daemon.api.sessions import Handler, Request, Session
from vmguard.daemon.claim.lifecycle import ClaimLifecycle
from vmguard.daemon.claim.migration_target import MigrationTarget
from vmguard.daemon.claim.proxmox_start_tasks import StartTasks
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import ANOTHER_HOST, GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.loop import Loop
from vmguard.errors import BadInput, DaemonError
from vmguard.protocol.messages import ClaimedFileMessage, ClaimSettings, shown
from vmguard.protocol.wire import Message

log = logging.getLogger("vmguard.api")

_NAME_CHARACTERS = 4096
_HOST_CHARACTERS = 256
_WARNING_CHARACTERS = 500
#: from the announcement of a restore to its start: libvirt does nothing but its own checks in between
_RESTORE_S = 10.0
#: makes a claim's settings from its hypervisor and the node that the VM migrates from (None: an ordinary start)
MakeSettings = Callable[[str, str | None], ClaimSettings]


@dataclass(frozen=True)
class NamedVm:
    """The VM that a request names."""

    hypervisor: str
    name: str
    uuid: str

    @property
    def id(self) -> str:
        return f"{self.hypervisor}-{self.uuid}"

    @classmethod
    def of(cls, message: Message) -> NamedVm:
        """Return the VM of a request. Raises BadInput when no hook can have sent that name."""
        hypervisor, name, uuid = message["hypervisor"], message["name"], message["uuid"]
        if not 0 < len(name) <= _NAME_CHARACTERS:
            raise BadInput(f"{shown(name)} is not a VM's name")
        known = hypervisors.by_name(hypervisor)
        if not known.has_hook:
            raise BadInput(f"{shown(hypervisor)} is not a hypervisor")
        if not known.is_id(uuid):
            raise BadInput(f"{shown(uuid)} is not a VM's uuid")
        return cls(hypervisor, name, uuid)


class ClaimRequests:
    """The handlers of the hooks' requests."""

    def __init__(
        self,
        loop: Loop,
        registry: Registry,
        lifecycle: ClaimLifecycle,
        settings: MakeSettings,
        migration_target: MigrationTarget,
    ) -> None:
        """``migration_target``: the VMs that migrate to this host."""
        self._loop = loop
        self._registry = registry
        self._lifecycle = lifecycle
        self._settings = settings
        self._migration_target = migration_target
        self._start_tasks = StartTasks(loop)
        #: VMs whose restore was announced: until when that counts, and when their memory was saved
        self._restoring: dict[str, tuple[float, float]] = {}

    @property
    def handlers(self) -> dict[str, Handler]:
        return {
            "claim": self._claim,
            "hold": self._hold,
            "commit": self._commit,
            "recorded": self._recorded,
            "started": self._started,
            "ended": self._ended,
            "incoming": self._announce,
            "restoring": self._restore,
            "standby": self._stand_by,
        }

    # -- a claim ----------------------------------------------------------------------------------------------------

    def _claim(self, request: Request) -> Message | None:
        """Answer with the settings; wait for the release of an earlier run's claim first, if there is one."""
        vm, session = NamedVm.of(request.message), request.session
        session.stays = True
        session.about = {"vm": vm.id, "name": vm.name, "uuid": vm.uuid}
        old = self._registry.get(vm.id)
        if self._migration_target.is_announced(vm.id):
            session.source = ""
        until, saved = self._restoring.pop(vm.id, (0.0, 0.0))
        session.saved = saved if until > self._loop.now() else None
        source = request.message.get("incoming")
        if source is not None:
            session.source = source[:_HOST_CHARACTERS]
        if old is None:
            return self._settings_for(session, vm.hypervisor)
        if old.state in LIVING:
            raise DaemonError(
                f"{old.title} is already running on this host (pid {old.pid}), claimed {old.claimed}",
                "if it should not be: vmguard status",
            )
        if old.state is State.OFFERED and not hypervisors.by_name(vm.hypervisor).serialises_starts:
            raise DaemonError(f"{old.title} is just being claimed by another start on this host", "wait for that one")
        # An earlier start left its claim behind: it is released first, on the usual proof.
        self._answer_when_released(session, old)
        old.start_is_over = True
        self._lifecycle.settle(old)
        return None

    def _settings_for(self, session: Session, hypervisor: str) -> Message:
        return {"settings": {**self._settings(hypervisor, session.source).as_json(), "saved": session.saved}}

    def _answer_when_released(self, session: Session, old: GuardedVm) -> None:
        """Answer a claim once the earlier run's claim is released, or refuse it when that takes too long."""
        answered: list[bool] = []

        def go_on() -> None:
            if not answered:
                answered.append(True)
                session.answer(self._settings_for(session, old.hypervisor))

        def give_up() -> None:
            if not answered:
                answered.append(True)
                reason = old.why or SENTENCES[old.state]
                session.refuse(
                    DaemonError(
                        f"an earlier run of {old.title} on this host is not over: {reason}", "see: vmguard status"
                    )
                )

        old.when_released.append(go_on)
        timeout = hypervisors.by_name(old.hypervisor).leftover_wait_s
        self._loop.call_in(timeout, give_up)

    def _hold(self, request: Request) -> Message:
        """Take descriptors over; with the last of them the claim is accepted, or refused as a whole."""
        named, session = NamedVm.of(request.message), request.session
        files = _files(request.message["files"])
        if len(files) != len(request.fds):
            raise BadInput(f"{len(files)} files were named and {len(request.fds)} descriptors came with them")
        for file in files:
            file.guard.received(request.fds.pop(0))
        session.files.extend(files)
        if request.message.get("final") is True:
            self._accept(named, session, request.message)
        return {}

    def _accept(self, named: NamedVm, session: Session, message: Message) -> None:
        """Hand a complete claim to its lifecycle. Raises DaemonError or BadInput; the files stay the session's then."""
        if self._registry.get(named.id) is not None:
            raise DaemonError(f"{vm_title(named.name)} was claimed by another start on this host in the meantime")
        if proc.is_dead(session.pidfd):
            raise DaemonError("the hook that began this claim is gone")
        vm = GuardedVm(hypervisor=named.hypervisor, name=named.name, uuid=named.uuid, files=session.files)
        if any(file.guard.is_reserved for file in vm.files):
            if session.source is None:
                raise BadInput("only a VM that was announced as a migration may reserve its files")
            vm.incoming = (message.get("incoming") or ANOTHER_HOST)[:_HOST_CHARACTERS]
        for warning in message.get("warnings") or []:
            log.warning("%s: %s", vm.title, warning[:_WARNING_CHARACTERS])
        if session.task < 0:
            session.task = self._start_tasks.find(hypervisors.by_name(vm.hypervisor), session.pid)
        try:
            self._lifecycle.accept(vm, session.pidfd)
        except OSError as problem:
            raise DaemonError(
                f"the state of {vm.title} cannot be written: {problem}", "free space in /run"
            ) from problem
        session.files = []
        session.vm = vm

    def _commit(self, request: Request) -> None:
        """Confirm the claim: its hook is about to succeed."""
        session = request.session
        if session.vm is None:
            return
        self._lifecycle.commit(session.vm)
        if session.task >= 0:
            task, session.task = session.task, -1
            self._start_tasks.follow(session.vm, task)

    def _recorded(self, request: Request) -> None:
        """Note the epochs of the owner records that the hook wrote."""
        vm = request.session.vm
        if vm is None:
            return
        epochs = request.message.get("epochs") or {}
        self._lifecycle.recorded(vm, {int(inode): epoch for inode, epoch in epochs.items()})
        for problem in request.message.get("problems") or []:
            log.warning("%s: %s", vm.title, problem[:_WARNING_CHARACTERS])

    # -- hints ------------------------------------------------------------------------------------------------------

    def _started(self, request: Request) -> Message:
        vm = self._registry.get(NamedVm.of(request.message).id)
        if vm is not None:
            self._lifecycle.started(vm)
        return {}

    def _ended(self, request: Request) -> Message | None:
        named = NamedVm.of(request.message)
        vm = self._registry.get(named.id)
        if hypervisors.by_name(named.hypervisor).tells_ends_late:
            # A post-stop may belong to a run before this one, and come while QEMU is being started. Its hook does not
            # wait for an answer.
            if vm is not None:
                self._lifecycle.settle(vm)
            return None
        self._lifecycle.explain(named.id, request.message.get("reason") or "")
        if vm is not None:
            self._lifecycle.ended(vm)
        return {}

    def _announce(self, request: Request) -> Message:
        self._migration_target.announce(NamedVm.of(request.message).id)
        return {}

    def _stand_by(self, request: Request) -> None:
        """A process waits for the next start with a connection that it will need then."""
        request.session.stays = True

    def _restore(self, request: Request) -> Message:
        """The start that comes next resumes saved memory; an announcement counts for that one alone."""
        now = self._loop.now()
        self._restoring = {known: value for known, value in self._restoring.items() if value[0] > now}
        self._restoring[NamedVm.of(request.message).id] = (now + _RESTORE_S, request.message.get("saved") or 0.0)
        return {}


def _files(values: list[Message]) -> list[GuardedFile]:
    """Make guarded files of a request's files. Raise BadInput or WireError when one cannot be guarded."""
    files = []
    for value in values:
        message = ClaimedFileMessage.from_json(value)
        if message.mode not in MODES or not message.held_ranges:
            raise BadInput(
                f"{shown(message.path)} has mode {shown(message.mode)} and {len(message.held_ranges)} ranges"
            )
        files.append(GuardedFile.from_claim(message.as_json()))
    return files
