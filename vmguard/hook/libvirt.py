"""libvirt's qemu hook, behind the shell shim hooks/qemu: ``libvirt.py NAME OPERATION SUB-OPERATION EXTRA``.

What each operation does stands in vmguard/hook/operations.py. Never calls libvirt (it would deadlock: libvirt holds
the VM's lock while it waits for us), prints nothing on stdout (for some operations that would become the domain XML).
"""

from __future__ import annotations

import os
import sys

from vmguard import faults
from vmguard.core import LIBVIRT
from vmguard.errors import VmguardError
from vmguard.hook import entry, operations
from vmguard.protocol import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmguard.hook.vm_to_claim import Subject

#: bytes; a domain XML beyond this is refused, libvirt's own limit for a message is 32 MiB
MAX_XML = 8 * 1024 * 1024
INFORM_TIMEOUT = 2.0
#: a VM of this name never starts: `vmguard enable` and `doctor` prove with it that libvirt calls the hook and obeys it
PROOF = "vmguard-proof-"
_TELLS = {"release": "ended", "migrate": "incoming"}


def main(argv: list[str]) -> int:
    """The hook's exit status; refusals are explained on stderr, which libvirt puts into the error of the start."""
    faults.point("start")
    name, operation = (os.fsdecode(word) for word in (*argv[1:3], "", "")[:2])
    row = operations.row(operation)
    return entry.serve(row, lambda: _claim(name), lambda: _inform(_TELLS[operation]))


def _claim(name: str) -> None:
    refuse_proof(name)
    entry.claim_all(subject_of(read_xml()), name)


def refuse_proof(name: str) -> None:
    """Raises VmguardError for the VM that must never start."""
    if name.startswith(PROOF):
        raise VmguardError(f"the hook is active, VM '{name}' is only its proof")


def subject_of(xml: bytes) -> Subject:
    """The VM of a domain XML. Raises VmguardError."""
    from vmguard.core.sources.domain_xml import parse_domain
    from vmguard.hook.vm_to_claim import Subject

    return Subject(LIBVIRT, parse_domain(xml))


def _inform(what: str) -> None:
    """A word to the daemon, which looks for itself. Any trouble here is the daemon's to overcome."""
    from vmguard.core.sources.domain_xml import parse_domain

    domain = parse_domain(read_xml())
    connection = wire.connect(entry.socket_path(), INFORM_TIMEOUT)
    connection.ask({"op": what, "hypervisor": LIBVIRT, "name": domain.name, "uuid": domain.uuid})


def read_xml() -> bytes:
    """All of stdin. Raises VmguardError when it is too much."""
    data = b""
    while len(data) <= MAX_XML:
        piece = os.read(0, 1 << 20)
        if not piece:
            return data
        data += piece
    raise VmguardError(f"the domain XML on stdin is larger than {MAX_XML} bytes")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
