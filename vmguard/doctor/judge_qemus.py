"""Findings about the running QEMUs: their own image locks, and those that nobody vouches for. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from vmguard.core.words import printable
from vmguard.doctor.facts import DisbelievedFacts, QemuFacts
from vmguard.doctor.finding import Finding, ok, warn

#: of thousands of processes so many are named
_MOST_NAMED = 10


def judge_qemus(qemus: Sequence[QemuFacts], doubted: Sequence[DisbelievedFacts] = ()) -> list[Finding]:
    """Judge how the running QEMUs lock their images themselves, and name those that are taken for nobody's."""
    return [*_locking(qemus), *_believed(qemus, doubted)]


def _locking(qemus: Sequence[QemuFacts]) -> list[Finding]:
    if not qemus:
        return []
    off = [qemu for qemu in qemus if qemu.libvirt and not qemu.image_locks]
    if off:
        names = ", ".join(f"{printable(qemu.name)} (pid {qemu.pid})" for qemu in off[:_MOST_NAMED])
        text = f"QEMU's own image locks are off, although libvirt manages it: {names}"
        return [warn("qemu.locking", "QEMU", text, "remove locking=off from the domain's <qemu:commandline>")]
    count = sum(qemu.image_locks for qemu in qemus)
    text = f"{count} of {len(qemus)} QEMUs lock their images themselves, as their hypervisor has it"
    return [ok("qemu.locking", "QEMU", text)]


def _believed(qemus: Sequence[QemuFacts], doubted: Sequence[DisbelievedFacts]) -> list[Finding]:
    found = [_disbelieved(one) for one in doubted[:_MOST_NAMED]]
    if len(doubted) > _MOST_NAMED:
        text = f"{len(doubted) - _MOST_NAMED} more processes look like a VM's and are not believed"
        found.append(warn("qemu.believed", "QEMU", text, "ps -eo pid,user,args | grep qemu"))
    if qemus and not found:
        found.append(ok("qemu.believed", "QEMU", "whose every QEMU is can be told by what root and the kernel say"))
    return found


def _disbelieved(one: DisbelievedFacts) -> Finding:
    at = f"VM {printable(one.name)}"
    if not one.pid:
        return warn("qemu.believed", at, f"its pid file is not believed: {printable(one.why)}", "ls -l, and remove it")
    who = f"pid {one.pid} ({printable(one.owner)}, {printable(one.program)})"
    text = f"{who} looks like its QEMU, and is not believed: {printable(one.why)}"
    return warn("qemu.believed", at, text, f"if it is a VM of yours: vmguard adopt --pid {one.pid}")
