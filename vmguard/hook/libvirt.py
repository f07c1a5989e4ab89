"""libvirt's qemu hook, behind the shell shim hooks/qemu: ``libvirt.py NAME OPERATION SUB-OPERATION EXTRA``.

What each operation does stands in vmguard/hook/operations.py. Never calls libvirt (it would deadlock: libvirt holds
the VM's lock while it waits for us), prints nothing on stdout (for some operations that would become the domain XML).
"""

from __future__ import annotations

import os
import sys

from vmguard import faults
from vmguard.errors import DaemonError, VmguardError
from vmguard.hook import operations
from vmguard.protocol import wire

RUN_DIR = "/run/vmguard"
#: bytes; a domain XML beyond this is refused, libvirt's own limit for a message is 32 MiB
MAX_XML = 8 * 1024 * 1024
CONNECT_TIMEOUT = 5.0
INFORM_TIMEOUT = 2.0
#: a VM of this name never starts: `vmguard enable` and `doctor` prove with it that libvirt calls the hook and obeys it
PROOF = "vmguard-proof-"
_TELLS = {"release": "ended", "migrate": "incoming"}


def main(argv: list[str]) -> int:
    """The hook's exit status; refusals are explained on stderr, which libvirt puts into the error of the start."""
    faults.point("start")
    name, operation = (os.fsdecode(word) for word in (*argv[1:3], "", "")[:2])
    row = operations.row(operation)
    try:
        if row.action == operations.CLAIM:
            _claim(name)
        elif row.action == operations.INFORM:
            _inform(_TELLS[operation])
        return 0
    except VmguardError as problem:
        _explain(problem.message, problem.hint)
    except OSError as problem:
        _explain(f"the hook failed: {problem}", "")
    except Exception as problem:
        _explain(f"the hook failed unexpectedly: {problem!r}", "please report this as a bug")
    return 1 if row.on_failure == operations.REFUSE else 0


def socket_path() -> str:
    return os.path.join(os.environ.get("VMGUARD_RUN_DIR", RUN_DIR), wire.SOCKET_NAME)


def _claim(name: str) -> None:
    if name.startswith(PROOF):
        raise VmguardError(f"the hook is active, VM '{name}' is only its proof")
    from vmguard.core.domain_xml import parse_domain
    from vmguard.hook.claim import claim
    from vmguard.hook.subject import Subject

    xml = _read_xml()
    domain = parse_domain(xml)
    try:
        connection = wire.connect(socket_path(), CONNECT_TIMEOUT)
    except DaemonError as problem:
        from vmguard.hook.absent import judge

        judge(name, problem)
        return
    connection.settimeout(None)
    for warning in claim(Subject("libvirt", domain), connection):
        _say(f"vmguard: warning: {warning}")


def _inform(what: str) -> None:
    """A word to the daemon, which looks for itself. Any trouble here is the daemon's to overcome."""
    from vmguard.core.domain_xml import parse_domain

    domain = parse_domain(_read_xml())
    connection = wire.connect(socket_path(), INFORM_TIMEOUT)
    connection.ask({"op": what, "hypervisor": "libvirt", "name": domain.name, "uuid": domain.uuid})


def _read_xml() -> bytes:
    data = b""
    while len(data) <= MAX_XML:
        piece = os.read(0, 1 << 20)
        if not piece:
            return data
        data += piece
    raise VmguardError(f"the domain XML on stdin is larger than {MAX_XML} bytes")


def _explain(message: str, hint: str) -> None:
    _say(f"vmguard: {message}" + (f"\n  do now   : {hint}" if hint else ""))


def _say(text: str) -> None:
    try:
        os.write(2, text.encode(errors="backslashreplace") + b"\n")
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv))
