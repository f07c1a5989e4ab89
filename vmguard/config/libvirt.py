"""The section ``libvirt`` of the table of settings (vmguard/config/settings.py)."""

from __future__ import annotations

from dataclasses import dataclass

from vmguard.config.row import setting
from vmguard.config.values import AbsolutePath, Name, YesNo


@dataclass(frozen=True)
class Libvirt:
    """libvirt's directories, events and QEMU user."""

    run_dir: str = setting(
        AbsolutePath(),
        "/run/libvirt/qemu",
        "Where libvirt keeps the pid files of its QEMU processes. Neither the directory nor a pid file may be writable "
        "for anybody but root, or it is not believed.",
    )
    config_dir: str = setting(
        AbsolutePath(),
        "/etc/libvirt/qemu",
        "Where libvirt keeps the definitions of its VMs (NAME.xml).",
    )
    events: bool = setting(
        YesNo(),
        True,
        "A process listens to libvirt's events (it needs libvirt-python): disks that are plugged in are pinned sooner.",
    )
    qemu_user: str = setting(
        Name("a user's name", r"[A-Za-z_][A-Za-z0-9_.-]{0,31}"),
        "libvirt-qemu",
        "The user that QEMU runs as. Disks are opened as this user where the NFS server does not let root in "
        "(root_squash). Debian and Ubuntu: libvirt-qemu; Fedora, RHEL and SUSE: qemu.",
    )
    hooks_dir: str = setting(
        AbsolutePath(),
        "/etc/libvirt/hooks",
        "Where libvirt looks for its hooks; vmguard enable libvirt puts its own into the folder qemu.d there.",
    )
