"""Looks at what the kernel's access controls forbid: Yama, SELinux, AppArmor. Reads /proc, /sys and /etc alone."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from vmguard.doctor.facts import ConfinementFacts

_YAMA = "proc/sys/kernel/yama/ptrace_scope"
_SELINUX = "sys/fs/selinux"
_PROFILES = "sys/kernel/security/apparmor/profiles"
_LOCAL = "etc/apparmor.d/local"
#: profiles of libvirt's daemons, by which the hook runs; the older name is the program's path
_OF_LIBVIRT = re.compile(r"^(?:/usr/sbin/)?(libvirtd|virtqemud) \(enforce\)$", re.MULTILINE)
#: from here these profiles let a hook run any program (Debian's, libvirt 9.0 to 11.3: ``/usr/bin/* PUx``)
_ALLOWED = ("/bin", "/sbin", "/usr/bin", "/usr/sbin")
#: of SELinux's policy: those that decide about our work
BOOLEANS = ("deny_ptrace", "virt_use_nfs", "virt_hooks_unconfined")


def look(interpreters: Sequence[str], root: str = "/") -> ConfinementFacts:
    """Look at this host. ``interpreters``: what libvirt's hooks of ours run."""
    scope = _read(os.path.join(root, _YAMA)).strip()
    enforces = _read(os.path.join(root, _SELINUX, "enforce")).strip() == "1"
    profiles = tuple(_OF_LIBVIRT.findall(_read(os.path.join(root, _PROFILES))))
    allowed = "".join(_read(os.path.join(root, _LOCAL, f"usr.sbin.{name}")) for name in profiles)
    return ConfinementFacts(
        ptrace_scope=int(scope) if scope.isdigit() else -1,
        booleans=tuple(_booleans(os.path.join(root, _SELINUX, "booleans"))) if enforces else None,
        profiles=profiles,
        barred=tuple(path for path in interpreters if profiles and not _may_run(path, allowed)),
    )


def _booleans(folder: str) -> list[tuple[str, bool]]:
    """Return those of the booleans that this policy has; a file holds the value in force and the one to come."""
    texts = [(name, _read(os.path.join(folder, name))) for name in BOOLEANS]
    return [(name, text.startswith("1")) for name, text in texts if text]


def _may_run(path: str, allowed: str) -> bool:
    """Return whether a profile lets a hook run a program: by its path without links, which is what it goes by."""
    rules = (line.split() for line in allowed.splitlines() if not line.lstrip().startswith("#"))
    return os.path.dirname(path) in _ALLOWED or any(path in words for words in rules)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
