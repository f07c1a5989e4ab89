"""In a guest: compares what a QEMU has open on the share with what vmguard has pinned; the kernel's /proc is the truth.

    oracle.py PACKAGE-FOLDER SHARE NAME      one order a line on standard input: {PATH: MODE}, what should be open

It answers when both are the same as that, or after PATIENCE: {"after": seconds, "open": {PATH: MODE}, "pinned": ...}
as JSON. MODE is ``exclusive`` for a file that QEMU may write, else ``shared``; nothing is open when there is no QEMU.
"""

from __future__ import annotations

import json
import os
import sys
import time

sys.path.insert(0, sys.argv[1])

from vmguard.errors import DaemonError
from vmguard.protocol.client import Daemon

PATIENCE = 10.0


def really_open(share: str, name: str) -> dict[str, str]:
    """The files on the share that the VM's QEMU has open, by what it may do with them."""
    found: dict[str, str] = {}
    try:
        with open(f"/run/libvirt/qemu/{name}.pid") as stream:
            pid = int(stream.read())
        numbers = os.listdir(f"/proc/{pid}/fd")
    except (FileNotFoundError, ProcessLookupError):
        return found
    for number in numbers:
        try:
            path = os.readlink(f"/proc/{pid}/fd/{number}")
            with open(f"/proc/{pid}/fdinfo/{number}") as lines:
                flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags"))
        except (FileNotFoundError, ProcessLookupError):
            continue
        if path.startswith(share + "/") and found.get(path) != "exclusive":
            found[path] = "exclusive" if flags & os.O_ACCMODE else "shared"
    return found


def guarded(name: str) -> dict[str, str]:
    """What vmguard has of it: the mode of a pinned file, and what it is instead for each other one."""
    try:
        with Daemon("/run/vmguard") as daemon:
            vms = [vm for vm in daemon.status() if vm["name"] == name]
    except DaemonError as problem:
        return {"daemon": str(problem)}
    files = [file for vm in vms for file in vm["files"]]
    return {file["path"]: file["mode"] if file["guard"] == "pinned" else file["guard"] for file in files}


def main() -> None:
    share, name = sys.argv[2:]
    for line in sys.stdin:
        wanted, began = json.loads(line), time.monotonic()
        while True:
            before, pinned, after = really_open(share, name), guarded(name), really_open(share, name)
            passed = time.monotonic() - began
            if before == pinned == after == wanted or passed > PATIENCE:
                break
            time.sleep(0.02)
        print(json.dumps({"after": passed, "open": after, "pinned": pinned}), flush=True)


if __name__ == "__main__":
    main()
