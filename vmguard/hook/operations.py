"""The contracts of the hooks: for each operation or phase, what the hook does, and what happens if that fails.

LIBVIRT: ``/etc/libvirt/hooks/qemu NAME OPERATION SUB-OPERATION EXTRA`` (libvirt docs/hooks.rst, src/util/virhook.c).
PROXMOX: ``SNIPPET VMID PHASE`` (pve-guest-common GuestHelpers.pm, exec_hookscript: no timeout, reads both pipes to
their end, heeds the exit status in pre-start alone).

The shell shims hooks/qemu and hooks/vmguard-hookscript exit at once for every row without an action; the tests of
each contract compare shim and table.
"""

from __future__ import annotations

# What the hook does.
NOTHING = "nothing"
CLAIM = "claim"
INFORM = "inform"

# What happens when the hook fails to do it.
REFUSE = "refuse"  # exit 1: the hypervisor does not start the VM and shows our message
PASS = "pass"  # exit 0, whatever happened


class Row:
    """One operation of the contract."""

    __slots__ = ("action", "on_failure", "why")

    def __init__(self, action: str, on_failure: str, why: str) -> None:
        self.action = action
        self.on_failure = on_failure
        self.why = why


LIBVIRT: dict[str, Row] = {
    "prepare": Row(CLAIM, REFUSE, "nothing of the VM runs yet, not even swtpm: the last moment to lock its files"),
    "start": Row(NOTHING, PASS, "already claimed at prepare; helpers such as swtpm are running by now"),
    "started": Row(NOTHING, PASS, "a failure here would kill a running VM; the daemon finds QEMU by its pid file"),
    "stopped": Row(NOTHING, PASS, "no proof of death: QEMU may hang in the kernel; the daemon watches its pidfd"),
    "release": Row(INFORM, PASS, "a hint for a start that failed before there was a QEMU; never a proof"),
    "migrate": Row(INFORM, PASS, "on the target only: the prepare that follows rightly finds the source's locks"),
    "restore": Row(INFORM, REFUSE, "prepare follows, claims and compares the saved memory; stdout becomes the XML"),
    "reconnect": Row(NOTHING, PASS, "libvirtd restarted: a failure here would KILL the running VM"),
    "attach": Row(NOTHING, PASS, "documented, but no libvirt calls it"),
}

PROXMOX: dict[str, Row] = {
    "pre-start": Row(CLAIM, REFUSE, "before QEMU, swtpm and the mounts; the storage may not be there yet"),
    "post-start": Row(INFORM, PASS, "QEMU has its pid file: the pin need not wait for the daemon's next poll"),
    "pre-stop": Row(NOTHING, PASS, "QEMU is running and may continue: there is nothing to release"),
    "post-stop": Row(INFORM, PASS, "no proof: Proxmox does not check whether QEMU is gone (_do_vm_stop)"),
}

#: an operation of a hypervisor newer than these tables
UNKNOWN = Row(NOTHING, PASS, "unknown to this version: it must not harm a VM")


def row(operation: str, table: dict[str, Row] = LIBVIRT) -> Row:
    """Return the row of an operation or phase; of an unknown one, a row that does nothing."""
    return table.get(operation, UNKNOWN)
