"""The process of a VM, whatever its hypervisor: by pid files and /proc, never by asking the hypervisor."""

from __future__ import annotations

from vmguard.adapters.libvirt import host as libvirt_host
from vmguard.adapters.proxmox import helpers as proxmox_helpers
from vmguard.adapters.proxmox import host as proxmox_host
from vmguard.core.sources.process_arguments import Kind

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


def helpers_of(run_dirs: RunDirs, hypervisor: str, uuid: str) -> list[tuple[int, Kind]]:
    """The helpers that the hypervisor's own files name; those of libvirt are found by what they have open."""
    return proxmox_helpers.helpers_of(run_dirs.proxmox, uuid) if hypervisor == PROXMOX else []


def believes_running(run_dirs: RunDirs, hypervisor: str, name: str, uuid: str) -> bool:
    """Whether the hypervisor has not noticed the end of this VM yet, by its own files."""
    if hypervisor == PROXMOX:
        return proxmox_host.believes_running(run_dirs.proxmox, uuid)
    return hypervisor == "libvirt" and libvirt_host.believes_running(run_dirs.libvirt, name)


def is_qemu_of(run_dirs: RunDirs, hypervisor: str, pid: int, uuid: str) -> bool:
    if hypervisor == PROXMOX:
        return proxmox_host.is_qemu_of(pid, uuid, run_dirs.proxmox)
    return libvirt_host.is_qemu_of(pid, uuid)
