"""libvirt's hook on this host: where it must lie, and the proof that libvirt calls it.

libvirt looks for hooks only at its start and at SIGHUP (virHookInitialize), and a hook that it does not see, or may
not execute, is silently not called. So the file's presence proves nothing. The proof is a VM whose only disk does not
exist: asked to start it, libvirt calls ``prepare`` first of all (qemuProcessInit), and the hook refuses every VM of
that name in its own words; without the hook libvirt refuses it for its missing disk. Nothing ever runs either way.
"""

from __future__ import annotations

import os
import re
import signal
import uuid

from vmguard.adapters.linux import atomic_file, pidfd, proc, programs

#: the line by which our hook is known, whatever its paths and version
MARK = b"# vmguard: libvirt's qemu hook"
#: before this version libvirt runs one file only, no folder (libvirt 6.5.0 release notes)
FOLDER_SINCE = (6, 5, 0)
DAEMONS = ("virtqemud", "libvirtd")
#: the hook knows it by this (vmguard/hook/libvirt.py, PROOF)
PROOF_NAME = "vmguard-proof-"
PROOF_WORDS = "the hook is active"
_URI = "qemu:///system"
CALLED, NOT_CALLED, UNKNOWN = "called", "not-called", "unknown"


class Proof:
    """Whether libvirt calls the hook: one of CALLED, NOT_CALLED, UNKNOWN, and libvirt's own words."""

    __slots__ = ("answer", "words")

    def __init__(self, answer: str, words: str) -> None:
        self.answer = answer
        self.words = words


def own_places(hooks_dir: str) -> tuple[str, str]:
    """Return where the hook may lie: the single file, and ours in the folder beside other hooks."""
    return os.path.join(hooks_dir, "qemu"), os.path.join(hooks_dir, "qemu.d", "50-vmguard")


def installed(hooks_dir: str) -> list[str]:
    """Return every hook of ours: the single file, and any file of the folder, whatever it is called."""
    single, in_folder = own_places(hooks_dir)
    folder = os.path.dirname(in_folder)
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [path for path in (single, *(os.path.join(folder, name) for name in names)) if is_ours(path)]


def is_ours(path: str) -> bool:
    return MARK in content(path)


def content(path: str) -> bytes:
    """Return what a file holds; nothing if there is no such file."""
    try:
        with open(path, "rb") as stream:
            return stream.read(1 << 20)
    except OSError:
        return b""


def write(path: str, data: bytes) -> None:
    """Put the hook there, executable, whole or not at all: libvirt may call it at any moment. Raises OSError."""
    folder = os.path.dirname(path)
    # libvirt runs every executable file of its folder qemu.d, whatever it is called; beside that it looks for one name.
    aside = os.path.dirname(folder) if folder.endswith(".d") else folder
    atomic_file.write(path, data, 0o755, aside=aside)


def version() -> tuple[int, ...] | None:
    """Return the version of this host's libvirt; None if it has none."""
    for name in DAEMONS:
        said = _run([name, "--version"], 10.0)
        found = re.search(r"(\d+)\.(\d+)\.(\d+)", said[1]) if said is not None else None
        if found:
            return tuple(int(number) for number in found.groups())
    return None


def running(run_dir: str = "/run") -> dict[int, str]:
    """Return libvirt's daemons of this host, by their pid files: pid and name."""
    found = {}
    for name in DAEMONS:
        try:
            with open(os.path.join(run_dir, f"{name}.pid"), encoding="ascii") as stream:
                pid = int(stream.read(32))
        except (OSError, ValueError):
            continue
        if pid > 1 and proc.name(pid) == name:
            found[pid] = name
    return found


def reload(run_dir: str = "/run") -> list[str]:
    """Have libvirt look for its hooks again; return the daemons that were told."""
    told = []
    for pid, name in running(run_dir).items():
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if proc.name(pid) == name and pidfd.send(handle, signal.SIGHUP):
                told.append(f"{name} (pid {pid})")
        finally:
            os.close(handle)
    return told


def prove(seconds: float = 20.0) -> Proof:
    """Ask libvirt to start the VM that cannot start; return what refused it."""
    name = f"{PROOF_NAME}{uuid.uuid4()}"
    xml = (
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory><os><type>hvm</type></os><devices>"
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/nonexistent/{name}'/>"
        "<target dev='vda' bus='virtio'/></disk></devices></domain>"
    )
    said = _run(["virsh", "-q", "-c", _URI, "create", "/proc/self/fd/0"], seconds, xml.encode())
    if said is None:
        return Proof(UNKNOWN, "virsh is not there or does not answer")
    status, text = said
    words = " ".join(text.split())
    if status == 0:
        # It should have been impossible; whatever it is, it has our name and no disk.
        _run(["virsh", "-q", "-c", _URI, "destroy", name], seconds)
        return Proof(NOT_CALLED, "libvirt started a VM whose disk does not exist")
    if PROOF_WORDS in text and name in text:
        return Proof(CALLED, words)
    if f"/nonexistent/{name}" in text:  # libvirt got as far as the disk
        return Proof(NOT_CALLED, words)
    return Proof(UNKNOWN, words)


def _run(command: list[str], seconds: float, stdin: bytes = b"") -> tuple[int, str] | None:
    """Return the exit status and all output; None if the command could not be run or did not end in time."""
    try:
        done = programs.run(command, seconds, stdin, mixed=True)
    except OSError:
        return None
    return done.status, done.text
