"""The process of a VM, whatever its hypervisor: by pid files and /proc, never by asking the hypervisor."""

from __future__ import annotations

from vmguard.adapters import libvirt_host, proxmox_host

PROXMOX = "proxmox"


class RunDirs:
    """Where each hypervisor keeps the pid files of its QEMU processes."""

    __slots__ = ("libvirt", "proxmox")

    def __init__(self, libvirt: str, proxmox: str) -> None:
        self.libvirt = libvirt
        self.proxmox = proxmox


def qemu_pid(run_dirs: RunDirs, hypervisor: str, name: str, uuid: str) -> int | None:
    """None while there is none, or it is not this VM's QEMU (yet)."""
    if hypervisor == PROXMOX:
        return proxmox_host.qemu_pid(run_dirs.proxmox, uuid)
    return libvirt_host.qemu_pid(run_dirs.libvirt, name, uuid)


def is_qemu_of(run_dirs: RunDirs, hypervisor: str, pid: int, uuid: str) -> bool:
    if hypervisor == PROXMOX:
        return proxmox_host.is_qemu_of(pid, uuid, run_dirs.proxmox)
    return libvirt_host.is_qemu_of(pid, uuid)
