"""What libvirt leaves in files: QEMU's pid, the lock manager in use. Never a call to libvirt itself."""

from __future__ import annotations

import os

from vmguard.adapters.linux import proc

_ESCAPES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&apos;"))


def pid_file(run_dir: str, name: str) -> str:
    """Where libvirt keeps QEMU's pid; the name is XML-escaped there (virPidFileBuildPath in util/virpidfile.c)."""
    for plain, escaped in _ESCAPES:
        name = name.replace(plain, escaped)
    return os.path.join(run_dir, name + ".pid")


def qemu_pid(run_dir: str, name: str, uuid: str) -> int | None:
    """QEMU's pid by libvirt's pid file; None while there is none or it is not this VM's QEMU (yet).

    Between fork and exec the pid is a child of libvirtd, and an old pid file may name a stranger: only a process
    with this VM's uuid on its command line counts.
    """
    if "/" in name:
        return None
    try:
        with open(pid_file(run_dir, name), encoding="ascii") as stream:
            pid = int(stream.read(32).strip() or "0")
    except (OSError, ValueError):
        return None
    return pid if pid > 1 and is_qemu_of(pid, uuid) else None


def name_of(run_dir: str, uuid: str) -> str:
    """The name of a VM that runs, by the pid files; empty when there is none of that uuid."""
    try:
        files = os.listdir(run_dir)
    except OSError:
        return ""
    for file in files:
        name, dot, kind = file.rpartition(".")
        for plain, escaped in reversed(_ESCAPES):
            name = name.replace(escaped, plain)
        if dot and kind == "pid" and qemu_pid(run_dir, name, uuid) is not None:
            return name
    return ""


def is_qemu_of(pid: int, uuid: str) -> bool:
    """Whether a process is the QEMU of a VM, by ``-uuid`` on its command line."""
    words = proc.cmdline(pid)
    return any(word == "-uuid" and following == uuid for word, following in zip(words, words[1:], strict=False))


def manages(words: list[str]) -> bool:
    """Whether a QEMU's arguments are libvirt's: each VM has a folder of libvirt's for its sockets and keys."""
    return any("/libvirt/qemu/" in word for word in words)


def believes_running(run_dir: str, name: str) -> bool:
    """Whether libvirt has a status file of this VM: from its start until libvirt itself has noticed its end."""
    return "/" not in name and os.path.exists(os.path.join(run_dir, name + ".xml"))


def uses_virtlockd(qemu_conf: str = "/etc/libvirt/qemu.conf") -> bool:
    """Whether this host's libvirt locks byte 0 itself (``lock_manager = "lockd"``)."""
    try:
        with open(qemu_conf, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition("=")
                if key.strip() == "lock_manager":
                    return value.strip().strip("\"'") == "lockd"
    except OSError:
        pass
    return False
