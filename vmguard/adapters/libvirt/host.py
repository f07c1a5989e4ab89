"""What libvirt leaves in files: QEMU's pid, the lock manager in use. Never a call to libvirt itself."""

from __future__ import annotations

import os

#: a status file begins with the job's state, then comes the domain with its name and uuid
_STATUS_BYTES = 1 << 20
_ESCAPES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&apos;"))


def pid_file(run_dir: str, name: str) -> str:
    """Return libvirt's pid file of a VM; the name is XML-escaped there (virPidFileBuildPath in util/virpidfile.c)."""
    for plain, escaped in _ESCAPES:
        name = name.replace(plain, escaped)
    return os.path.join(run_dir, name + ".pid")


def name_of(run_dir: str, uuid: str) -> str:
    """Return the name of a VM that runs, by libvirt's status files; empty if there is none of that uuid.

    A status file (NAME.xml, virDomainObjSave) is there from the start of a VM until libvirt has noticed its end.
    """
    wanted = f"<uuid>{uuid}</uuid>".encode()
    try:
        files = sorted(os.listdir(run_dir))
    except OSError:
        return ""
    for file in files:
        if not file.endswith(".xml"):
            continue
        if wanted in _status(os.path.join(run_dir, file)):
            return file.removesuffix(".xml")
    return ""


def disowns(run_dir: str, name: str, uuid: str) -> bool:
    """Return whether the status file of the VM of that name has another uuid."""
    status = _status(os.path.join(run_dir, name + ".xml"))
    return bool(status) and f"<uuid>{uuid}</uuid>".encode() not in status


def backup_files(run_dir: str, name: str, uuid: str) -> frozenset[str]:
    """Return the files that a backup of a VM writes, by its status file."""
    if "/" in name:
        return frozenset()
    status = _status(os.path.join(run_dir, name + ".xml"))
    if f"<uuid>{uuid}</uuid>".encode() not in status:
        return frozenset()
    from vmguard.core.sources.backup_job import files_of

    return files_of(status)


def _status(path: str) -> bytes:
    """Return the beginning of a status file; nothing if there is none, or not libvirt (root) has written it."""
    from vmguard.adapters.linux import roots_file

    try:
        return roots_file.read(path, _STATUS_BYTES)[0]
    except (OSError, ValueError):
        return b""


def is_qemu_of(words: list[str], uuid: str) -> bool:
    """Return whether these are the arguments of a VM's QEMU, by ``-uuid``."""
    return any(word == "-uuid" and following == uuid for word, following in zip(words, words[1:], strict=False))


def believes_running(run_dir: str, name: str) -> bool:
    """Return whether libvirt has a status file of a VM: from its start until libvirt has noticed its end."""
    return "/" not in name and os.path.exists(os.path.join(run_dir, name + ".xml"))


def uses_virtlockd(qemu_conf: str = "/etc/libvirt/qemu.conf") -> bool:
    """Return whether this host's libvirt locks byte 0 itself (``lock_manager = "lockd"``)."""
    try:
        with open(qemu_conf, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition("=")
                if key.strip() == "lock_manager":
                    return value.strip().strip("\"'") == "lockd"
    except OSError:
        pass
    return False
