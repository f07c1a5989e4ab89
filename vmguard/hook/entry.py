"""What the hooks of all hypervisors have in common: serve one event, find the daemon, print messages."""

from __future__ import annotations

import os

from vmguard.core.words import printable
from vmguard.errors import DaemonError, VmguardError
from vmguard.hook import operations
from vmguard.protocol import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmguard.hook.vm_to_claim import VmToClaim

RUN_DIR = "/run/vmguard"
CONNECT_TIMEOUT_S = 5.0


def serve(row: operations.Row, claim: Callable[[], None], inform: Callable[[], None]) -> int:
    """Do what the contract says for an event; return the exit status. Errors are explained on stderr."""
    try:
        if row.action == operations.CLAIM:
            claim()
        elif row.action == operations.INFORM:
            inform()
        return 0
    except VmguardError as problem:
        explain(problem.message, problem.hint)
    except OSError as problem:
        explain(f"the hook failed: {problem}", "")
    except Exception as problem:
        explain(f"the hook failed unexpectedly: {problem!r}", "please report this as a bug")
    return 1 if row.on_failure == operations.REFUSE else 0


def socket_path() -> str:
    """Return the path of the daemon's socket."""
    return os.path.join(os.environ.get("VMGUARD_RUN_DIR", RUN_DIR), wire.SOCKET_NAME)


def claim_all(vm: VmToClaim, name: str) -> None:
    """Claim a VM's files through the daemon. Without one, and for a user that may not use it, do what the configuration
    says. Raise VmguardError.

    ``name``: the VM for people.
    """
    from vmguard.hook.claim import claim

    try:
        connection = wire.connect(socket_path(), CONNECT_TIMEOUT_S)
    except DaemonError as problem:
        if os.geteuid() != 0:
            from vmguard.hook import session_vm

            session_vm.refuse_unless_allowed(vm.domain, name)
            return
        from vmguard.hook.daemon_absent import refuse_unless_allowed

        refuse_unless_allowed(name, problem)
        return
    connection.settimeout(None)
    for warning in claim(vm, connection):
        say(f"vmguard: warning: {warning}")


def explain(message: str, hint: str) -> None:
    """Print an error and what to do about it."""
    lines = [*f"vmguard: {message}".split("\n"), *([f"  do now   : {hint}"] if hint else [])]
    _print("\n".join(map(printable, lines)))


def say(text: str) -> None:
    """Print a line on stderr, if it is still open."""
    _print(printable(text))


def _print(text: str) -> None:
    try:
        os.write(2, f"{text}\n".encode())
    except OSError:
        pass
