"""The claim: open a VM's disks, lock all of them or none, hand the descriptors to the daemon.

Two processes share the work, because every call on NFS may hang (in a grace period even a non-blocking lock does):

* the hook itself enforces the deadline, touches no share, and says in the end that the claim stands (``commit``);
* its child opens, locks and hands over; it can be killed at any time, and its locks end with it.

Until the ``commit`` the daemon keeps the descriptors only as long as the hook lives. Whichever process dies at
whatever step, nothing stays locked. Standard library only, and as little of it as possible: every start waits for it.
"""

from __future__ import annotations

import os
import select

from vmguard import faults
from vmguard.core.lean_json import decode
from vmguard.errors import DaemonError, StorageTimeout, VmguardError
from vmguard.hook.vm_to_claim import FIRST_DEADLINE_S, PROGRESS_INTERVAL_S, ProgressPipe, VmToClaim, boottime
from vmguard.protocol import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from vmguard.hook.claim_on_share import ClaimedFiles
    from vmguard.protocol.messages import ClaimSettings

_PIPE_READ_BYTES = 65536
#: the stage in which no storage is waited for
_ASKING = "asking the vmguard daemon"
_REASON_CHARACTERS = 500
#: there on a host whose kernel is, or may become, an NFS server
_NFS_SERVER = "/proc/fs/nfsd/v4_end_grace"


def claim(vm: VmToClaim, connection: wire.Connection) -> list[str]:
    """Claim all files of a VM; return warnings for people. Raise VmguardError when the VM must not start."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    faults.point("connected")
    begin(vm, connection)  # the daemon answers while the child gets ready
    parent = os.getpid()
    vm.child = os.fork()
    if vm.child == 0:
        os.close(read_end)
        work(lambda: vm, connection, ProgressPipe(write_end, parent))
    os.close(write_end)
    faults.point("forked")
    return follow(read_end, vm.child, connection, vm.speak)


def begin(vm: VmToClaim, connection: wire.Connection) -> None:
    """Tell the daemon which VM is about to be claimed; its answer is for the child."""
    connection.send({"op": "claim", **vm.identity(), **({"incoming": vm.source} if vm.source else {})})


def follow(
    reports: int,
    child: int,
    connection: wire.Connection,
    speak: Callable[[str], None] | None = None,
    caller: int = -1,
) -> list[str]:
    """Wait for the child's verdict and make the claim stand; return warnings for people. Raise VmguardError.

    ``caller``: a pidfd of the process that the claim is made for, where that is another one than this; else -1.
    """
    try:
        warnings = _wait(reports, child, speak, caller)
    except VmguardError as problem:
        _tell_refused(connection, problem)
        raise
    finally:
        os.close(reports)
    faults.point("reported")
    connection.send({"op": "commit"})
    faults.point("committed")
    return warnings


def _tell_refused(connection: wire.Connection, problem: VmguardError) -> None:
    """Tell the daemon, for the history: nobody else sees a VM that is not started."""
    try:
        connection.send({"op": "refused", "reason": problem.message[:_REASON_CHARACTERS]})
    except (OSError, VmguardError):
        pass


def _timeout(stage: str, servers: str) -> StorageTimeout:
    """Return the error for a claim that took too long. ``servers``: what the storage servers say of themselves."""
    if stage == _ASKING:
        text = "the vmguard daemon does not answer; nothing was left locked"
        return StorageTimeout(text, "systemctl status vmguard, journalctl -u vmguard: it may have no memory or no time")
    return StorageTimeout(
        f"the storage did not answer in time while {stage}{servers}",
        "the server is down, or in the grace period after its reboot, or a dead host has a delegation of a disk"
        " until its lease ends; nothing was left locked, try again later",
    )


def _wait(reports: int, child: int, speak: Callable[[str], None] | None, caller: int) -> list[str]:
    """Read the child's reports until its verdict, at most until the deadline of its present stage."""
    poll = select.poll()
    poll.register(reports, select.POLLIN)
    if caller >= 0:
        poll.register(caller, select.POLLIN)
    stage, deadline = "starting", boottime() + FIRST_DEADLINE_S
    servers = ""
    pending = b""
    while True:
        left = max(0.0, deadline - boottime())
        events = poll.poll(1000 * (left if speak is None else min(left, PROGRESS_INTERVAL_S)))
        if any(fd == caller for fd, _ in events):
            os.kill(child, 9)
            raise VmguardError(f"whoever asked for the claim was ended while {stage}; nothing was left locked")
        if not events:
            if speak is not None and left > PROGRESS_INTERVAL_S:
                more = left - PROGRESS_INTERVAL_S
                speak(f"the storage has not answered yet while {stage}; waiting for {more:.0f} s more")
                continue
            os.kill(child, 9)
            raise _timeout(stage, servers)
        data = os.read(reports, _PIPE_READ_BYTES)
        if not data:
            raise VmguardError(f"the claim was ended from outside while {stage}; nothing was left locked")
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            report = decode(line.decode())
            if "held" in report:
                return [str(warning) for warning in report["held"]]
            if "refused" in report:
                raise VmguardError.passed_on(report["refused"], report["hint"])
            if "servers" in report:
                servers = f"; by its own word {report['servers']}"
                continue
            if "note" in report:
                if speak is not None:
                    speak(report["note"])
                continue
            stage = report["stage"]
            deadline = boottime() + report["seconds"]


def work(ready: Callable[[], VmToClaim | None], connection: wire.Connection, progress: ProgressPipe) -> NoReturn:
    """Do the child's work and exit.

    ``ready`` returns the VM for which ``begin`` was called, or None when there is nothing to do.
    """
    try:
        # The child may outlive the hook by a moment: it must not keep the hypervisor's pipes open.
        _leave_pipes()
        vm = ready()
        if vm is not None:
            _claim(vm, connection, progress)
    except VmguardError as problem:
        progress.refuse(problem)
    except OSError as problem:
        progress.refuse(VmguardError(f"the claim failed: {problem}"))
    except BaseException as problem:
        progress.refuse(VmguardError(f"the claim failed unexpectedly: {problem!r}", "please report this as a bug"))
    finally:
        os._exit(0)


def _leave_pipes() -> None:
    """Point stdin, stdout and stderr to /dev/null."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _claim(vm: VmToClaim, connection: wire.Connection, progress: ProgressPipe) -> None:
    from vmguard.adapters.linux import mountstats
    from vmguard.hook import claim_on_share
    from vmguard.protocol.messages import ClaimSettings

    # Where the hook may wait, it gets more time: a run of the same VM that has just ended is released first.
    progress.stage(_ASKING, FIRST_DEADLINE_S if vm.speak is None else 3 * FIRST_DEADLINE_S)
    settings = ClaimSettings.from_json(connection.answer()["settings"])
    faults.point("asked")
    progress.seconds = settings.timeout
    if settings.server_words:
        progress.say({"servers": settings.server_words})
    claimed = claim_on_share.open_files(vm, settings, progress)
    if os.path.exists(_NFS_SERVER):
        from vmguard.adapters.linux.nfs_server import NfsServer
        from vmguard.hook import claim_in_grace

        claim_in_grace.wait(vm, claimed, settings, progress, NfsServer())
    sessions = mountstats.sessions({file.point for file in claimed.files if file.point})
    if settings.incoming is None:
        claim_on_share.lock_all_or_none(vm, claimed, settings, progress)
    else:
        from vmguard.hook import claim_incoming

        claimed.source = claim_incoming.lock(vm, claimed.files, settings, progress)
    if vm.saved_image is not None or settings.saved is not None:
        from vmguard.hook import claim_saved

        claim_saved.refuse_stale(vm, claimed, settings, progress)
    if settings.record.folder:
        progress.stage("looking for an earlier claim")
        for files, others in claim_on_share.earlier_disks(vm, claimed, settings):
            from vmguard.hook import claim_replaced

            claim_replaced.refuse_held(vm, files, others, settings, progress)
    claim_on_share.free_excluded_ranges(claimed, settings)
    progress.stage("handing the locks to the vmguard daemon")
    _hand_over(connection, vm.identity(), claimed)
    faults.point("held")
    sessions = _prove_again(claimed, sessions, settings, {}, progress)
    epochs = _write_records(connection, vm, settings, claimed, progress)
    _prove_again(claimed, sessions, settings, epochs, progress)
    claimed.close()
    progress.say({"held": claimed.warnings})
    progress.close()


def _hand_over(connection: wire.Connection, identity: dict[str, str], claimed: ClaimedFiles) -> None:
    """Send the locked descriptors to the daemon, in as many messages as they need. Raise DaemonError if refused."""
    files = [(file.message().as_json(), file.fd) for file in claimed.files]
    batches = [files[at : at + wire.FDS_PER_MESSAGE] for at in range(0, len(files), wire.FDS_PER_MESSAGE)] or [[]]
    for index, batch in enumerate(batches):
        final = index == len(batches) - 1
        message = {"op": "hold", **identity, "final": final, "files": [value for value, _ in batch]}
        if final:
            message["warnings"] = claimed.warnings
            message["incoming"] = claimed.source
        connection.ask(message, [fd for _, fd in batch])


def _write_records(
    connection: wire.Connection,
    vm: VmToClaim,
    settings: ClaimSettings,
    claimed: ClaimedFiles,
    progress: ProgressPipe,
) -> dict[str, int]:
    """Write the owner records before the start is released; return their epochs by inode.

    An epoch is a fencing token: it must be on the server before the VM can write. A record that cannot be written is no
    reason to refuse the start.
    """
    if not settings.record.folder:
        return {}
    from vmguard.hook import claim_on_share

    progress.stage("writing the owner records")
    faults.point("record")
    epochs, problems = claim_on_share.write_records(vm, settings, claimed)
    try:
        connection.send({"op": "recorded", "epochs": epochs, "problems": problems})
    except (OSError, DaemonError):
        pass
    return epochs


def _prove_again(
    claimed: ClaimedFiles,
    before: dict[str, list[bytes]],
    settings: ClaimSettings,
    epochs: dict[str, int],
    progress: ProgressPipe,
) -> dict[str, list[bytes]]:
    """Ask for the locks if anything happened to their mounts' clients that may have cost them; raise LockUnavailable.

    ``before``: what was counted before they were taken, or proven last. Return what is to be compared with next.
    It is asked twice: before the records, so that a claim that has lost its lock leaves none, and behind them, because
    whoever reclaims the lock later finds them.
    """
    from vmguard.adapters.linux import mountstats

    if mountstats.sessions(before) == before:
        return before
    from vmguard.hook import claim_proof

    progress.stage("asking for the locks again, because the storage was restarted", settings.timeout)
    return claim_proof.prove(claimed.files, settings.record.folder, epochs)
