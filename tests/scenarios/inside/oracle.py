"""In a guest: compares what a QEMU has open on the share with what vmguard has pinned; the kernel's /proc is the truth.

    oracle.py PACKAGE-FOLDER SHARE NAME      one order a line on standard input

``check`` answers when both are the same, or after PATIENCE: {"after": seconds, "open": {PATH: MODE}, "pinned": ...}
as JSON. MODE is ``exclusive`` for a file that QEMU may write, else ``shared``.
"""

from __future__ import annotations

import json
import os
import sys
import time

sys.path.insert(0, sys.argv[1])

from vmguard.errors import DaemonError
from vmguard.protocol.client import Daemon

PATIENCE = 8.0


def really_open(share: str, name: str) -> dict[str, str]:
    """The files on the share that the VM's QEMU has open, by what it may do with them."""
    with open(f"/run/libvirt/qemu/{name}.pid") as stream:
        pid = int(stream.read())
    found: dict[str, str] = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            path = os.readlink(f"/proc/{pid}/fd/{number}")
            with open(f"/proc/{pid}/fdinfo/{number}") as lines:
                flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags"))
        except FileNotFoundError:
            continue
        if path.startswith(share + "/") and found.get(path) != "exclusive":
            found[path] = "exclusive" if flags & os.O_ACCMODE else "shared"
    return found


def pinned(name: str) -> dict[str, str]:
    try:
        with Daemon("/run/vmguard") as daemon:
            vms = [vm for vm in daemon.status() if vm["name"] == name]
    except DaemonError as problem:
        return {"daemon": str(problem)}
    return {file["path"]: file["mode"] for vm in vms for file in vm["files"] if file["guard"] == "pinned"}


def main() -> None:
    share, name = sys.argv[2:]
    for _ in sys.stdin:
        began = time.monotonic()
        while True:
            before, guarded, after = really_open(share, name), pinned(name), really_open(share, name)
            passed = time.monotonic() - began
            if before == guarded == after or passed > PATIENCE:
                break
            time.sleep(0.02)
        print(json.dumps({"after": passed, "open": after, "pinned": guarded}), flush=True)


if __name__ == "__main__":
    main()
