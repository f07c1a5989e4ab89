"""The claim: open a VM's disks, lock all of them or none, hand the descriptors to the daemon.

Two processes share the work, because every call on NFS may hang (in a grace period even a non-blocking lock does):

* the hook itself counts the deadline, touches no share, and says in the end that the claim stands (``commit``);
* its child opens, locks and hands over; it can be killed at any time, and its locks end with it.

Until the ``commit`` the daemon keeps the descriptors only as long as the hook lives. Whoever dies at whatever step,
nothing stays locked. Standard library only, and as little of it as can be: this is on the way of every start.
"""

from __future__ import annotations

import os
import select
import time

from vmguard import faults
from vmguard.core.lean_json import decode
from vmguard.errors import DaemonError, StorageTimeout, VmguardError
from vmguard.hook.vm_to_claim import FIRST_DEADLINE, SAY_EVERY, Reporter, Subject
from vmguard.protocol import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_PIPE_READ = 65536


def claim(subject: Subject, connection: wire.Connection) -> list[str]:
    """Claim all files of a VM; returns warnings for people. Raises VmguardError when the VM must not start."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    faults.point("connected")
    begin(subject, connection)  # the daemon answers while the child gets ready
    parent = os.getpid()
    subject.child = os.fork()
    if subject.child == 0:
        os.close(read_end)
        work(lambda: subject, connection, Reporter(write_end, parent))
    os.close(write_end)
    faults.point("forked")
    return follow(read_end, subject.child, connection, subject.speak)


def begin(subject: Subject, connection: wire.Connection) -> None:
    """Tell the daemon which VM is about to be claimed; its answer is for the child."""
    connection.send({"op": "claim", **subject.who(), **({"incoming": subject.source} if subject.source else {})})


def follow(
    reports: int,
    child: int,
    connection: wire.Connection,
    speak: Callable[[str], None] | None = None,
    caller: int = -1,
) -> list[str]:
    """Wait for the child's verdict and make it stand; returns warnings for people. Raises VmguardError.

    ``caller``: a pidfd of whoever the claim is made for, where that is another process than this.
    """
    try:
        warnings = _wait(reports, child, speak, caller)
    finally:
        os.close(reports)
    faults.point("reported")
    connection.send({"op": "commit"})
    faults.point("committed")
    return warnings


def _wait(reports: int, child: int, speak: Callable[[str], None] | None, caller: int) -> list[str]:
    """Follow the child's reports until its verdict, at most until the deadline that its stage allows."""
    poll = select.poll()
    poll.register(reports, select.POLLIN)
    if caller >= 0:
        poll.register(caller, select.POLLIN)
    stage, deadline = "starting", _now() + FIRST_DEADLINE
    pending = b""
    while True:
        left = max(0.0, deadline - _now())
        events = poll.poll(1000 * (left if speak is None else min(left, SAY_EVERY)))
        if any(fd == caller for fd, _ in events):
            os.kill(child, 9)
            raise VmguardError(f"whoever asked for the claim was ended while {stage}; nothing was left locked")
        if not events:
            if speak is not None and left > SAY_EVERY:
                speak(f"the storage has not answered yet while {stage}; waiting for {left - SAY_EVERY:.0f} s more")
                continue
            os.kill(child, 9)
            raise StorageTimeout(
                f"the storage did not answer in time while {stage}",
                "the server is down, or in the grace period after its reboot; nothing was left locked, try again later",
            )
        data = os.read(reports, _PIPE_READ)
        if not data:
            raise VmguardError(f"the claim was ended from outside while {stage}; nothing was left locked")
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            report = decode(line.decode())
            if "held" in report:
                return [str(warning) for warning in report["held"]]
            if "refused" in report:
                raise VmguardError(report["refused"], report["hint"])
            if "note" in report:
                if speak is not None:
                    speak(report["note"])
                continue
            stage = report["stage"]
            deadline = _now() + report["seconds"]


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def work(ready: Callable[[], Subject | None], connection: wire.Connection, reporter: Reporter) -> None:
    """The child's whole life; never returns. ``ready``: the VM for which ``begin`` was called; None: there is none."""
    try:
        # It keeps none of the hypervisor's pipes open: it may outlive the hook by a moment.
        _leave_pipes()
        subject = ready()
        if subject is not None:
            _work(subject, connection, reporter)
    except VmguardError as problem:
        reporter.say({"refused": problem.message, "hint": problem.hint})
    except OSError as problem:
        reporter.say({"refused": f"the claim failed: {problem}", "hint": ""})
    except BaseException as problem:
        reporter.say({"refused": f"the claim failed unexpectedly: {problem!r}", "hint": "please report this as a bug"})
    finally:
        os._exit(0)


def _leave_pipes() -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _work(subject: Subject, connection: wire.Connection, reporter: Reporter) -> None:
    from vmguard.hook import claim_on_share

    # Who may wait gets more time: a run of the same VM that has just ended is released first.
    reporter.stage("asking the vmguard daemon", FIRST_DEADLINE if subject.speak is None else 3 * FIRST_DEADLINE)
    settings = connection.answer()["settings"]
    faults.point("asked")
    reporter.seconds = settings["timeout"]
    claimed = claim_on_share.open_and_lock(subject, settings, reporter)
    reporter.stage("handing the locks to the vmguard daemon")
    _hand_over(connection, subject.who(), claimed)
    faults.point("held")
    claimed.close()
    reporter.say({"held": claimed.warnings})
    reporter.close()
    _write_records(connection, subject, settings, claimed)


def _hand_over(connection: wire.Connection, who: dict[str, str], claimed: Any) -> None:
    files = [(item.as_json(), item.fd) for item in claimed.files]
    batches = [files[at : at + wire.FDS_PER_MESSAGE] for at in range(0, len(files), wire.FDS_PER_MESSAGE)] or [[]]
    for index, batch in enumerate(batches):
        final = index == len(batches) - 1
        message = {"op": "hold", **who, "final": final, "files": [value for value, _ in batch]}
        if final:
            message["warnings"] = claimed.warnings
            message["incoming"] = claimed.source
        connection.ask(message, [fd for _, fd in batch])


def _write_records(connection: wire.Connection, subject: Subject, settings: dict[str, Any], claimed: Any) -> None:
    """Behind the start, never in its way: the hook has its verdict already."""
    if not settings["record"]["folder"]:
        return
    from vmguard.hook import claim_on_share

    faults.point("record")
    epochs, problems = claim_on_share.write_records(subject, settings, claimed)
    try:
        connection.send({"op": "recorded", "epochs": epochs, "problems": problems})
    except (OSError, DaemonError):
        pass
