"""libvirt's qemu hook, behind the shell shim hooks/qemu: ``libvirt.py NAME OPERATION SUB-OPERATION EXTRA``.

What each operation does is in vmguard/hook/operations.py. The hook never calls libvirt (it would deadlock: libvirt
holds the VM's lock while it waits for us) and prints nothing on stdout (for some operations that would become the
domain XML).
"""

from __future__ import annotations

import os
import sys

from vmguard import faults
from vmguard.core import LIBVIRT
from vmguard.core.words import printable, shell_word
from vmguard.errors import DaemonError, VmguardError
from vmguard.hook import entry, operations
from vmguard.protocol import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmguard.hook.vm_to_claim import VmToClaim

#: a larger domain XML is refused; libvirt's own limit for a message is 32 MiB
MAX_XML_BYTES = 8 * 1024 * 1024
INFORM_TIMEOUT_S = 2.0
#: a VM whose name begins so never starts: `vmguard enable` and `doctor` prove with it that libvirt calls the hook and
#: obeys it
PROOF = "vmguard-proof-"
#: operation of libvirt -> request to the daemon
_REQUESTS = {"release": "ended", "migrate": "incoming", "restore": "restoring"}


def main(argv: list[str]) -> int:
    """Serve one event; return the exit status. libvirt puts what is on stderr into the error of a refused start."""
    faults.point("start")
    name, operation = (os.fsdecode(word) for word in (*argv[1:3], "", "")[:2])
    reason = os.fsdecode(argv[4]) if len(argv) > 4 else ""
    row = operations.row(operation)
    return entry.serve(row, lambda: _claim(name), lambda: _inform(_REQUESTS[operation], reason))


def _claim(name: str) -> None:
    refuse_proof(name)
    entry.claim_all(vm_of(read_xml()), name)


def refuse_proof(name: str) -> None:
    """Raise VmguardError for the VM that must never start."""
    if name.startswith(PROOF):
        raise VmguardError(f"the hook is active, VM '{printable(name)}' is only its proof")


def vm_of(xml: bytes) -> VmToClaim:
    """Return the VM of a domain XML. Raise VmguardError."""
    from vmguard.core.sources.domain_xml import parse_domain
    from vmguard.hook.vm_to_claim import VmToClaim

    domain = parse_domain(xml)
    called = shell_word(domain.name)
    return VmToClaim(
        LIBVIRT,
        domain,
        start_anew=f"virsh start --force-boot {called} (or virsh managedsave-remove {called} first)",
    )


def _inform(operation: str, reason: str) -> None:
    """Send the daemon a hint, which it verifies itself. It does not depend on hints: a failure here does no harm.

    The exception is a restore: a daemon that did not learn of it would take the start that follows for an ordinary one.
    Without a daemon ``prepare`` decides, by the same rule.

    ``reason``: libvirt's fourth word, since 10.5.0 why a VM ended; before that ``-``.
    """
    from vmguard.core.sources.domain_xml import parse_domain

    domain = parse_domain(read_xml())
    message: dict[str, object] = {"op": operation, "hypervisor": LIBVIRT, "name": domain.name, "uuid": domain.uuid}
    if operation == "ended" and reason not in ("", "-", "unknown"):
        message["reason"] = reason
    try:
        connection = wire.connect(entry.socket_path(), INFORM_TIMEOUT_S)
    except DaemonError as problem:
        if operation != "restoring":
            raise
        if os.geteuid() != 0:  # a session VM: its own policy decides at prepare
            return
        from vmguard.hook.daemon_absent import refuse_unless_allowed

        refuse_unless_allowed(domain.name, problem)
        return
    if operation == "restoring":
        from vmguard.hook.claim_saved import image_time

        message["saved"] = image_time(os.getppid(), domain.uuid)
    connection.ask(message)


def read_xml() -> bytes:
    """Return all of stdin. Raise VmguardError when it is too large."""
    data = b""
    while len(data) <= MAX_XML_BYTES:
        piece = os.read(0, 1 << 20)
        if not piece:
            return data
        data += piece
    raise VmguardError(f"the domain XML on stdin is larger than {MAX_XML_BYTES} bytes")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
