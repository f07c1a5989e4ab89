"""The daemon's side of the wire protocol: who may speak, and what each operation does."""

from __future__ import annotations

import functools
import json
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

import vmguard
from vmguard.adapters import hypervisors
from vmguard.adapters.linux import clock, proc
from vmguard.core.locks.claim_states import LIVING, SENTENCES, State
from vmguard.core.locks.plan import MODES
from vmguard.daemon.api.watchdog_status import Oversight
from vmguard.daemon.claim.lifecycle import Keeper
from vmguard.daemon.claim.migration_target import Incoming
from vmguard.daemon.claim.proxmox_start_tasks import Starters
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import ANOTHER_HOST, GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.loop import Loop
from vmguard.errors import BadInput, DaemonError, VmguardError, WireError
from vmguard.protocol.wire import Connection, Message

log = logging.getLogger("vmguard.service")

#: messages read from one connection before the others get their turn
_AT_ONCE = 64


class Session:
    """One connection: its peer, and the claim that it is making."""

    def __init__(self, connection: Connection, pid: int, pidfd: int) -> None:
        self.connection = connection
        self.pid = pid
        self.pidfd = pidfd
        self.files: list[GuardedFile] = []
        self.vm: GuardedVm | None = None
        #: pidfd of the task whose hook this is, as far as there is one
        self.task = -1
        #: its VM comes in by live migration, from that node as far as it is known; None: an ordinary start
        self.source: str | None = None


class Service:
    """Accepts connections and answers requests, in the loop's thread."""

    def __init__(
        self,
        loop: Loop,
        registry: Registry,
        keeper: Keeper,
        settings: Callable[[str], dict[str, Any]],
        oversight: Oversight,
    ) -> None:
        self._loop = loop
        self._registry = registry
        self._keeper = keeper
        self._settings = settings
        self._oversight = oversight
        self._started = clock.wall()
        #: the VMs that migrate to this host; set by whoever puts the daemon together
        self.incoming: Incoming | None = None
        #: carries out ``adopt``: the request and where its answer goes
        self.adopt: Callable[[Message, Callable[[list[dict[str, Any]] | BadInput], None]], None] | None = None
        self._starters = Starters(loop)
        self._operations: dict[str, Callable[[Session, Message, list[int]], Message | None]] = {
            "claim": self._claim,
            "hold": self._hold,
            "commit": self._commit,
            "recorded": self._recorded,
            "started": self._has_started,
            "ended": self._ended,
            "incoming": self._incoming,
            "adopt": self._adopt,
            "status": self._status,
            "who": self._who,
            "ping": self._ping,
            "health": lambda session, message, fds: self._oversight.health(),
            "disarm": lambda session, message, fds: self._oversight.disarm(message),
            "arm": lambda session, message, fds: self._oversight.arm(message),
        }

    def listen(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._loop.watch(listener.fileno(), lambda: self._accept(listener))

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, _ = listener.accept()
        except OSError:
            return
        accepted.setblocking(False)
        connection = Connection(accepted)
        pid, uid, _ = connection.peer()
        if uid not in (0, os.geteuid()):
            log.warning("a process of user %d (pid %d) was turned away", uid, pid)
            connection.close()
            return
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            connection.close()
            return
        session = Session(connection, pid, pidfd)
        self._loop.watch(connection.fileno(), lambda: self._readable(session))

    def _readable(self, session: Session) -> None:
        # All that waits is read in one go: a hook's last words must be heard before its death is judged.
        for _ in range(_AT_ONCE):
            try:
                received = session.connection.receive()
            except BlockingIOError:
                return
            except WireError as problem:
                self._answer(session, _refusal(problem))
                continue
            except OSError:
                received = None
            if received is None:
                self._close(session)
                return
            self._serve(session, *received)

    def _serve(self, session: Session, message: Message, fds: list[int]) -> None:
        operation = self._operations.get(str(message.get("op")))
        try:
            if operation is None:
                raise BadInput(f"unknown operation {message.get('op')!r}")
            answer = operation(session, message, fds)
        except (VmguardError, OSError) as problem:
            answer = _refusal(problem)
        finally:
            for fd in fds:
                os.close(fd)
            fds.clear()
        if answer is not None:
            self._answer(session, answer)

    def _answer(self, session: Session, answer: Message, fds: tuple[int, ...] = ()) -> None:
        try:
            session.connection.send({"ok": True, **answer}, fds)
        except (OSError, WireError) as problem:
            log.info("pid %d does not take its answer: %s", session.pid, problem)

    def _close(self, session: Session) -> None:
        self._loop.unwatch(session.connection.fileno())
        session.connection.close()
        os.close(session.pidfd)
        if session.task >= 0:
            os.close(session.task)
        if session.files:
            self._keeper.discard(session.files)

    # -- a claim ----------------------------------------------------------------------------------------------------

    def _claim(self, session: Session, message: Message, fds: list[int]) -> Message | None:
        _, uuid, hypervisor = _subject(message)
        vm_id = f"{hypervisor}-{uuid}"
        old = self._registry.get(vm_id)
        if self.incoming is not None and self.incoming.is_announced(vm_id):
            session.source = ""
        if isinstance(message.get("incoming"), str):
            session.source = str(message["incoming"])[:256]
        if old is None:
            return {"settings": self._settings_for(session, hypervisor)}
        if old.state in LIVING:
            raise DaemonError(
                f"{old.title} is already running on this host (pid {old.pid}), claimed {old.claimed}",
                "if it should not be: vmguard status",
            )
        if old.state is State.OFFERED and not hypervisors.by_name(hypervisor).serialises_starts:
            raise DaemonError(f"{old.title} is just being claimed by another start on this host", "wait for that one")
        # A start before this one left its claim behind: let it go first, on the same proof as ever.
        self._answer_when_released(session, old)
        old.start_is_over = True
        self._keeper.settle(old)
        return None

    def _settings_for(self, session: Session, hypervisor: str) -> dict[str, Any]:
        return {**self._settings(hypervisor), "incoming": session.source}

    def _answer_when_released(self, session: Session, old: GuardedVm) -> None:
        answered: list[bool] = []

        def go_on() -> None:
            if not answered:
                answered.append(True)
                self._answer(session, {"settings": self._settings_for(session, old.hypervisor)})

        def give_up() -> None:
            if not answered:
                answered.append(True)
                reason = old.why or SENTENCES[old.state]
                problem = DaemonError(
                    f"an earlier run of {old.title} on this host is not over: {reason}", "see: vmguard status"
                )
                self._answer(session, _refusal(problem))

        old.when_released.append(go_on)
        self._loop.call_in(hypervisors.by_name(old.hypervisor).leftover_wait_s, give_up)

    def _hold(self, session: Session, message: Message, fds: list[int]) -> Message:
        name, uuid, hypervisor = _subject(message)
        files = _files(message.get("files"))
        if len(files) != len(fds):
            raise BadInput(f"{len(files)} files were named and {len(fds)} descriptors came with them")
        for file, fd in zip(files, fds, strict=True):
            file.fd = os.dup(fd)
        session.files.extend(files)
        if message.get("final") is not True:
            return {}
        if self._registry.get(f"{hypervisor}-{uuid}") is not None:
            raise DaemonError(f"VM {name!r} was claimed by another start on this host in the meantime")
        if proc.is_dead(session.pidfd):
            raise DaemonError("the hook that began this claim is gone")
        vm = GuardedVm(hypervisor=hypervisor, name=name, uuid=uuid, files=session.files)
        if any(file.foothold for file in vm.files):
            if session.source is None:
                raise BadInput("a foothold is for a VM that was announced as a migration")
            vm.incoming = str(message.get("incoming") or ANOTHER_HOST)[:256]
        for warning in message.get("warnings") or []:
            log.warning("%s: %s", vm.title, str(warning)[:500])
        if session.task < 0:
            session.task = self._starters.find(hypervisors.by_name(hypervisor), session.pid)
        try:
            self._keeper.accept(vm, session.pidfd)
        except OSError as problem:
            raise DaemonError(
                f"the state of {vm.title} cannot be written: {problem}", "free space in /run"
            ) from problem
        session.files = []
        session.vm = vm
        return {}

    def _commit(self, session: Session, message: Message, fds: list[int]) -> None:
        if session.vm is not None:
            self._keeper.commit(session.vm)
            if session.task >= 0:
                task, session.task = session.task, -1
                self._starters.follow(session.vm, task)

    def _recorded(self, session: Session, message: Message, fds: list[int]) -> None:
        if session.vm is not None:
            epochs = {int(inode): int(epoch) for inode, epoch in dict(message.get("epochs") or {}).items()}
            self._keeper.recorded(session.vm, epochs)
            for problem in message.get("problems") or []:
                log.warning("%s: %s", session.vm.title, str(problem)[:500])

    def _has_started(self, session: Session, message: Message, fds: list[int]) -> Message:
        _, uuid, hypervisor = _subject(message)
        vm = self._registry.get(f"{hypervisor}-{uuid}")
        if vm is not None:
            self._keeper.started(vm)
        return {}

    def _ended(self, session: Session, message: Message, fds: list[int]) -> Message | None:
        _, uuid, hypervisor = _subject(message)
        vm = self._registry.get(f"{hypervisor}-{uuid}")
        if hypervisors.by_name(hypervisor).tells_ends_late:
            # A post-stop may belong to a run before this one, and come while QEMU is being started. Its hook does not
            # wait for an answer.
            if vm is not None:
                self._keeper.settle(vm)
            return None
        if vm is not None:
            self._keeper.ended(vm)
        return {}

    def _incoming(self, session: Session, message: Message, fds: list[int]) -> Message:
        _, uuid, hypervisor = _subject(message)
        if self.incoming is not None:
            self.incoming.announce(f"{hypervisor}-{uuid}")
        return {}

    # -- questions --------------------------------------------------------------------------------------------------

    def _status(self, session: Session, message: Message, fds: list[int]) -> None:
        self._answer_list(session, [{**vm.as_json(), "watch": self._oversight.of_vm(vm)} for vm in self._registry])

    def _adopt(self, session: Session, message: Message, fds: list[int]) -> None:
        if self.adopt is None:
            raise DaemonError("this daemon does not adopt VMs")
        self.adopt(message, functools.partial(self._adopted, session))

    def _adopted(self, session: Session, found: list[dict[str, Any]] | BadInput) -> None:
        if isinstance(found, BadInput):
            self._answer(session, _refusal(found))
        else:
            self._answer_list(session, found)

    def _answer_list(self, session: Session, found: list[dict[str, Any]]) -> None:
        # A thousand VMs do not fit into one message: the list travels in a memory file.
        fd = os.memfd_create("vmguard-answer", os.MFD_CLOEXEC)
        with os.fdopen(fd, "wb") as stream:
            size = stream.write(json.dumps(found).encode())
            stream.flush()
            self._answer(session, {"version": vmguard.__version__, "bytes": size}, (fd,))

    def _who(self, session: Session, message: Message, fds: list[int]) -> Message:
        key = (int(message.get("device", 0)), int(message.get("inode", 0)))
        return {"vms": [vm.as_json() for vm in self._registry.holder_of(key)]}

    def _ping(self, session: Session, message: Message, fds: list[int]) -> Message:
        return {"version": vmguard.__version__, "since": self._started, "pid": os.getpid(), "vms": len(self._registry)}


def _refusal(problem: Exception) -> Message:
    hint = problem.hint if isinstance(problem, VmguardError) else ""
    return {"ok": False, "error": {"message": str(problem), "hint": hint}}


def _subject(message: Message) -> tuple[str, str, str]:
    """Name, uuid and hypervisor of the VM that a message speaks of. Raises BadInput."""
    name, uuid, hypervisor = message.get("name"), message.get("uuid"), message.get("hypervisor")
    if not isinstance(name, str) or not 0 < len(name) <= 4096:
        raise BadInput(f"{name!r} is not a VM's name")
    known = hypervisors.by_name(hypervisor) if isinstance(hypervisor, str) else None
    if known is None or not known.has_hook:
        raise BadInput(f"{hypervisor!r} is not a hypervisor")
    if not isinstance(uuid, str) or not known.is_id(uuid):
        raise BadInput(f"{uuid!r} is not a VM's uuid")
    return name, uuid, known.name


def _files(value: object) -> list[GuardedFile]:
    if not isinstance(value, list):
        raise BadInput("files is not a list")
    try:
        files = [GuardedFile.from_json(item) for item in value]
    except (KeyError, TypeError, ValueError) as problem:
        raise BadInput(f"a file of the claim is not understood: {problem!r}") from None
    for file in files:
        if file.mode not in MODES or not file.pieces:
            raise BadInput(f"{file.path!r} has mode {file.mode!r} and {len(file.pieces)} ranges")
    return files
