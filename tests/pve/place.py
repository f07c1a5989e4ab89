"""A private Proxmox node on this machine: /etc/pve, snippets, a qm, and vmguard's daemon in one folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.support.guard import REPOSITORY, Answer, Guard, make_disk, run

QM = REPOSITORY / "tests/pve/inside/qm.py"
OTHER = "other"


class Place:
    """A node. ``name``: this node; OTHER: another one of its cluster; ``store``: a folder that the cluster shares."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = os.uname().nodename.partition(".")[0]
        self.pve, self.snippets, self.store = folder / "pve", folder / "vz/snippets", folder / "store"
        for node in (self.name, OTHER):
            (self.pve / "nodes" / node / "qemu-server").mkdir(parents=True)
        (self.store / "snippets").mkdir(parents=True)
        self.storages(f"dir: store\n\tpath {self.store}\n\tshared 1\n")
        self.guard = Guard(
            folder,
            proxmox={
                "config_dir": str(self.pve),
                "run_dir": str(folder / "qemu-server"),
                "snippets_dir": str(self.snippets),
                "lock_wait": "1s",
            },
        )
        self.env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "PYTHONPATH": str(REPOSITORY)}
        self.qm_env = {
            "PVE_DIR": str(self.pve),
            "PVE_SNIPPETS_DIR": str(self.snippets),
            "PVE_STORES": f"store={self.store}",
            "PVE_LOCK_DIR": str(folder / "flocks"),
            "PVE_LOCK_PATIENCE": "0.5",
        }
        (folder / "bin").mkdir()
        self.qm(f'exec {sys.executable} {QM} "$@"')

    def qm(self, does: str) -> None:
        """Write the program qm, which records each call and then does this."""
        script = self.folder / "bin/qm"
        env = "".join(f"export {name}={value}\n" for name, value in self.qm_env.items())
        script.write_text(f'#!/bin/sh\n{env}echo "$@" >> {self.folder / "calls"}\n{does}\n')
        script.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def storages(self, text: str) -> None:
        (self.pve / "storage.cfg").write_text(text)

    def conf(self, vmid: str, node: str = "") -> Path:
        return self.pve / "nodes" / (node or self.name) / "qemu-server" / f"{vmid}.conf"

    def vm(self, vmid: str, *lines: str, node: str = "", disk: bool = True) -> Path:
        """Write a VM's configuration as qm would, with a disk in the shared folder; return its path."""
        if disk:
            (self.store / "images" / vmid).mkdir(parents=True, exist_ok=True)
            make_disk(self.store / f"images/{vmid}/vm-{vmid}-disk-0.raw")
        own = [f"scsi0: store:{vmid}/vm-{vmid}-disk-0.raw"] if disk else []
        path = self.conf(vmid, node)
        main = [line for line in lines if not line.startswith("[")]
        path.write_text("".join(f"{line}\n" for line in sorted([f"name: vm{vmid}", *own, *main])))
        return path

    def script(self, name: str = "own.sh", does: str = "exit 0") -> Path:
        """Write a hookscript of the admin's, ``store:snippets/NAME``; return its path."""
        path = self.store / "snippets" / name
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)
        return path

    def vmguard(self, *words: str, **env: str) -> Answer:
        stand_ins = [sys.executable, str(REPOSITORY / "tests/support/stand_ins.py"), str(self.folder / "bin")]
        command = [*stand_ins, "--config", str(self.guard.config), *words]
        return run(command, env={**self.env, **env})

    def json(self, *words: str, **env: str) -> dict[str, Any]:
        answer = self.vmguard(*words, "--json", **env)
        value: dict[str, Any] = json.loads(answer.out)
        return {**value, "exit": answer.status}

    def everything(self) -> dict[str, bytes]:
        """Return the contents of everything that enable and disable may change, by path."""
        places = [path for top in (self.pve, self.snippets) for path in sorted(top.rglob("*"))]
        return {str(path): path.read_bytes() if path.is_file() else b"" for path in places}
