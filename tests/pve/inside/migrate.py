"""The parts of a live migration between the stand-in's nodes: ``migrate.py VERB VMID [URI]``, see QemuMigrate.pm.

push URI: the source sends the memory, and its guest stops at the end      resume: the target's guest runs (qm resume)
leave: the source's QEMU is stopped, without a hook, as its configuration is another node's by then
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time

sys.path.insert(0, os.path.abspath(f"{__file__}/../../../.."))
from tests.pve.inside import node


def ask(vmid: str, order: str) -> dict[str, object]:
    """Send a QMP command; return the answer."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(5)
        line.connect(f"{node.RUN}/{vmid}.qmp")
        stream = line.makefile("rw")
        stream.readline()
        for word in ("qmp_capabilities", order):
            stream.write(json.dumps({"execute": word}) + "\n")
            stream.flush()
            while "return" not in (answer := json.loads(stream.readline())):
                pass
        found: dict[str, object] = answer["return"]
        return found


def push(vmid: str, uri: str) -> None:
    node.qmp(vmid, "migrate", uri=uri)
    while (status := ask(vmid, "query-migrate").get("status")) != "completed":
        if status in ("failed", "cancelled"):
            raise node.Died(f"migration {status}")
        time.sleep(0.02)


def resume(vmid: str) -> None:
    node.qmp(vmid, "cont")


def leave(vmid: str) -> None:
    node.qmp(vmid, "quit")
    node.gone(vmid, 60)


def main() -> int:
    verb, vmid, *words = sys.argv[1:]
    try:
        if verb == "push":
            push(vmid, *words)
        else:
            {"resume": resume, "leave": leave}[verb](vmid)
    except node.Died as problem:
        print(f"TASK ERROR: {problem}", file=sys.stderr)
        return 255
    return 0


if __name__ == "__main__":
    sys.exit(main())
