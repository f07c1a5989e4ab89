"""Findings about what the kernel's access controls forbid. Pure."""

from __future__ import annotations

from vmguard.doctor.facts import ConfinementFacts
from vmguard.doctor.finding import Finding, fail, ok, warn

_AT = "host"
#: Yama: nobody attaches, not even root (Documentation/admin-guide/LSM/Yama.rst); pidfd_getfd asks for the same right
_NO_ATTACH = 3


def judge_confinement(facts: ConfinementFacts) -> list[Finding]:
    """Judge what Yama, SELinux and AppArmor let the daemon, QEMU and the hook do."""
    return [_ptrace(facts), _selinux(facts), _apparmor(facts)]


def _ptrace(facts: ConfinementFacts) -> Finding:
    if facts.ptrace_scope >= _NO_ATTACH:
        text = f"kernel.yama.ptrace_scope is {facts.ptrace_scope}: no lock can be moved onto QEMU's own descriptors"
        mend = "grep -r ptrace_scope /etc/sysctl.conf /etc/sysctl.d; set it to 2 there and reboot: it cannot be lowered"
        return fail("host.ptrace", _AT, text, mend)
    if facts.boolean("deny_ptrace"):
        text = "SELinux's deny_ptrace is on: no lock can be moved onto QEMU's own descriptors"
        return fail("host.ptrace", _AT, text, "setsebool -P deny_ptrace off; systemctl restart vmguard")
    return ok("host.ptrace", _AT, "the daemon may copy QEMU's descriptors")


def _selinux(facts: ConfinementFacts) -> Finding:
    if facts.booleans is None:
        return ok("host.selinux", _AT, "SELinux does not enforce anything here")
    if facts.boolean("virt_use_nfs") is False:
        text = "SELinux's virt_use_nfs is off: libvirt's QEMU may not open disks on NFS"
        return warn("host.selinux", _AT, text, "setsebool -P virt_use_nfs on")
    if facts.boolean("virt_hooks_unconfined") is False:
        text = "SELinux's virt_hooks_unconfined is off: the hook may be kept from the daemon and the share"
        return warn("host.selinux", _AT, text, "setsebool -P virt_hooks_unconfined on; ausearch -m avc -ts recent")
    return ok("host.selinux", _AT, "SELinux enforces, and lets QEMU use NFS")


def _apparmor(facts: ConfinementFacts) -> Finding:
    if not facts.profiles:
        return ok("libvirt.apparmor", "libvirt", "AppArmor does not confine libvirt here")
    if facts.barred:
        path, profile = facts.barred[0], f"usr.sbin.{facts.profiles[0]}"
        text = f"AppArmor's profile of {facts.profiles[0]} lets no hook run {path}: every start is refused"
        mend = f"echo '{path} PUx,' >> /etc/apparmor.d/local/{profile}; apparmor_parser -r /etc/apparmor.d/{profile}"
        return fail("libvirt.apparmor", "libvirt", text, mend)
    return ok("libvirt.apparmor", "libvirt", f"AppArmor's profile of {facts.profiles[0]} lets the hook run")
