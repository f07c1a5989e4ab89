"""Read and set this host's NFS client id: the one in force, and the one after the next boot.

The id is part of co_ownerid (nfs4_init_uniform_client_string): the sysfs identifier of the network namespace, else the
module parameter nfs4_unique_id, in front of the host name. It is fixed for a server at the first mount; later changes
count only when all mounts of that server are gone.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re

from vmguard.adapters.linux import host_identity

#: our file; its comment tells on which machine the id was made, so that a clone can be told from the original
CONF = "/etc/modprobe.d/vmguard-nfs.conf"
_PARAMETER = "/sys/module/nfs/parameters/nfs4_unique_id"
_SYSFS = "/sys/fs/nfs/net/nfs_client/identifier"
_OPTION = re.compile(r"^\s*options\s+nfs\s.*?\bnfs4_unique_id=(\S+)", re.M)
_BOOT_OPTION = re.compile(r"\bnfs\.nfs4_unique_id=(\S+)")
_MADE_ON = re.compile(r"^# made on machine ([0-9a-f]+)", re.M)
#: what firmware says when its maker had no serial numbers to give
_NO_UUID = {"", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"}
_NO_UUID |= {"03000200-0400-0500-0006-000700080009"}


def in_force() -> str | None:
    """Return the id in force; None while the nfs module is not loaded, "" if the host name alone is the identity."""
    for path in (_SYSFS, _PARAMETER):
        value = _read(path)
        if value is not None and value not in ("", "(null)"):
            return value
    return None if _read(_PARAMETER) is None else ""


def persistent(folders: tuple[str, ...] = ("/etc/modprobe.d", "/usr/lib/modprobe.d")) -> tuple[str, str, str]:
    """Return the id after the next boot, the file that says so, and the machine on which vmguard made it, if it did."""
    words = _BOOT_OPTION.search(_read("/proc/cmdline") or "")
    if words:
        return words[1], "/proc/cmdline", ""
    found = ("", "", "")
    for folder in folders:
        for path in sorted(glob.glob(os.path.join(folder, "*.conf"))):
            text = _read(path) or ""
            option, made = _OPTION.search(text), _MADE_ON.search(text)
            if option:  # of two such lines the last one counts
                found = option[1], path, made[1] if made else ""
        if found[0]:
            break
    return found


def machine() -> str:
    """Return a fingerprint of this very machine, empty if there is nothing to make it of.

    It is made of the firmware's uuid, which a clone of a disk does not carry along; else (as in a container) of the
    machine id.
    """
    uuid = (_read("/sys/class/dmi/id/product_uuid") or "").lower()
    source = uuid if uuid not in _NO_UUID else host_identity.machine_id()
    return hashlib.sha256(f"vmguard {source}".encode()).hexdigest()[:16] if source else ""


def conf_text(unique_id: str, made_on: str) -> str:
    return (
        "# The NFS client id of this host, made by: vmguard doctor --fix identity\n"
        "# An NFS server tells its clients apart by it, instead of by their host names. No two hosts may "
        "have the same.\n"
        f"# made on machine {made_on}\n"
        f"options nfs nfs4_unique_id={unique_id}\n"
    )


def set_now(unique_id: str) -> bool:
    """Put an id in force for servers mounted from now on; return False if the nfs module is not loaded."""
    if _read(_PARAMETER) is None:
        return False
    with open(_PARAMETER, "w", encoding="ascii") as stream:
        stream.write(unique_id)
    return True


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return None
