"""Lab guests as nodes of a Proxmox cluster: tests/pve/inside/node.py runs in them, vmguard guards them.

::

    server, a, b = two_nodes(lab)
    cluster = Cluster(a, b)
    cluster.create(PveGuest("100", "web"))        configuration on a, heartbeat disk on the share
    a.qm("start", "100"); a.beats("100")
    cluster.move("100", a, b)                      what the manual calls the recovery of a dead node's VM
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from tests.lab import Job, Lab, NfsServer, Result
from tests.lab.guest import PYTHON, REPOSITORY
from tests.lab.heartbeat import heartbeat_disk
from tests.support.guarded_guests import VMGUARD, Guarded

STORE = "/mnt/pve/nas"
HOOK = "/var/lib/vz/snippets/vmguard"
NODE_SCRIPT = f"{REPOSITORY}/tests/pve/inside/node.py"
QM_SCRIPT = f"{REPOSITORY}/tests/pve/inside/qm.py"
#: seconds between two tries of HA: 20 s with a lease of 90 s (pve-ha-manager, test-resource-failure5), here of 10 s
HA_SPACING = 2.2
STORAGE_CFG = """\
dir: local
\tpath /var/lib/vz
\tcontent iso,vztmpl

nfs: nas
\tserver 10.77.0.1
\texport /vm
\tpath /mnt/pve/nas
\tcontent images
\toptions vers=4.2
"""


@dataclass(frozen=True)
class PveGuest:
    """A VM as its configuration describes it."""

    vmid: str
    name: str
    drives: dict[str, str] = field(default_factory=dict)
    more: dict[str, str] = field(default_factory=dict)

    @property
    def volumes(self) -> dict[str, str]:
        return self.drives or {"scsi0": f"nas:{self.vmid}/vm-{self.vmid}-disk-0.raw"}

    @property
    def config(self) -> str:
        lines = {"name": self.name, "memory": "16", **self.volumes, "hookscript": "local:snippets/vmguard", **self.more}
        return "".join(f"{key}: {value}\n" for key, value in lines.items())


def path_of(volume: str) -> str:
    words = volume.split(",")[0].partition(":")[2].split("/")
    return f"{STORE}/images/{words[-2]}/{words[-1]}"


class PveNode(Guarded):
    """One node."""

    def install(self) -> None:
        self.host.put("/etc/vmguard/vmguard.yaml", self.config.encode())
        script = self.host.run([VMGUARD, "hook-script", "proxmox"]).stdout
        script = script.replace(f"VMGUARD_PYTHON={REPOSITORY}/.venv/bin/python3", f"VMGUARD_PYTHON={PYTHON}")
        self.host.put(HOOK, script.encode(), mode=0o755)
        self.host.put("/usr/sbin/qm", f'#!/bin/sh\nexec {PYTHON} {QM_SCRIPT} "$@"\n'.encode(), mode=0o755)
        folders = " ".join(f"/etc/pve/nodes/{node}/qemu-server" for node in ("hyp-a", "hyp-b"))
        self.host.run(f"mkdir -p {folders} /run/qemu-server && ln -sfn nodes/{self.name} /etc/pve/local")
        self.host.put("/etc/pve/storage.cfg", STORAGE_CFG.encode())

    def qm_job(self, verb: str, vmid: str, **words: str) -> Job:
        return self.host.spawn([PYTHON, NODE_SCRIPT, verb, vmid, *(f"{key}={value}" for key, value in words.items())])

    def qm(self, verb: str, vmid: str, within: float = 60.0, check: bool = True, **words: str) -> Result:
        """Run a task to its end."""
        job = self.qm_job(verb, vmid, **words)
        result = job.wait(within)
        assert not check or result.returncode == 0, f"{verb}: {result.stderr}\n{self.log()}"
        return result

    def ha_start(self, vmid: str) -> tuple[str, int]:
        """As HA starts it: the state in which that ends, and how many tries it took (max_restart 1; LRM.pm)."""
        for tries in (1, 2):
            if self.qm_job("start", vmid).wait(120).returncode == 0:
                return "started", tries
            time.sleep(HA_SPACING)
        return "error", tries

    def reconfigure(self, config: str) -> None:
        """Another configuration for the daemon, which goes on."""
        before = self.log().count("configuration reloaded")
        self.config = config
        self.host.put("/etc/vmguard/vmguard.yaml", config.encode())
        self.host.run("kill -HUP $(pgrep -f '[v]mguard daemon')")
        deadline = time.monotonic() + 10.0
        while self.log().count("configuration reloaded") == before:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def events(self, vmid: str) -> list[str]:
        """What the daemon has reported of a VM."""
        lines = self.host.run("cat /run/vmguard/history.jsonl", check=False).stdout.splitlines()
        return [entry["code"] for entry in map(json.loads, lines) if entry["fields"].get("uuid") == vmid]

    def pid(self, vmid: str) -> int:
        return int(self.host.run([PYTHON, NODE_SCRIPT, "running", vmid]).stdout)

    def beats(self, vmid: str) -> str:
        return self.host.run(["cat", f"/run/qemu-server/{vmid}.serial"], check=False).stdout

    def wait_beats(self, vmid: str, count: int = 3, timeout: float = 20.0) -> None:
        goal = self.beats(vmid).count(".") + count
        deadline = time.monotonic() + timeout
        while self.beats(vmid).count(".") < goal:
            assert time.monotonic() < deadline, f"{vmid} does not beat on {self.name}\n{self.log()}"
            time.sleep(0.1)

    def guarded_vm(self, vmid: str) -> dict[str, Any] | None:
        return next((vm for vm in self.status() if vm["uuid"] == vmid), None)

    def guards(self, vmid: str) -> dict[str, tuple[str, str]]:
        """Mode and guard of each file, by its name."""
        found = self.guarded_vm(vmid)
        files = found["files"] if found is not None else []
        return {file["path"].rpartition("/")[2]: (file["mode"], file["guard"]) for file in files}

    def guards_by_inode(self, vmid: str) -> dict[int, tuple[str, str]]:
        found = self.guarded_vm(vmid)
        files = found["files"] if found is not None else []
        return {file["inode"]: (file["mode"], file["guard"]) for file in files}

    def wait_event(self, vmid: str, code: str, timeout: float = 60.0) -> None:
        deadline = time.monotonic() + timeout
        while code not in self.events(vmid):
            assert time.monotonic() < deadline, f"{self.name}: no {code}: {self.events(vmid)}\n{self.log()}"
            time.sleep(0.2)

    def wait_until(self, vmid: str, wanted: dict[str, tuple[str, str]], timeout: float = 10.0) -> float:
        """Until the VM's files are guarded like this; the seconds it took. {} means: not guarded at all."""
        began = time.monotonic()
        while (found := self.guards(vmid)) != wanted:
            assert time.monotonic() - began < timeout, f"{self.name}: {vmid}: {found}, not {wanted}\n{self.log()}"
            time.sleep(0.1)
        return time.monotonic() - began

    def kill_qemu(self, vmid: str, number: int = 9) -> None:
        self.host.run(["kill", f"-{number}", str(self.pid(vmid))])


class Cluster:
    """/etc/pve is one file system on all nodes; here each has its copy, changed together."""

    def __init__(self, *nodes: PveNode) -> None:
        self.nodes = list(nodes)

    def create(self, guest: PveGuest, owner: PveNode) -> None:
        """The configuration on its node, the heartbeat on its first disk."""
        for volume in guest.volumes.values():
            path = path_of(volume)
            owner.host.put(path, heartbeat_disk(path.rpartition(".")[2]), timeout=60)
        owner.host.run("sync")
        self.configure(guest, owner)

    def configure(self, guest: PveGuest, owner: PveNode) -> None:
        for node in self.nodes:
            if node.host.is_on():
                node.host.put(self._path(guest.vmid, owner), guest.config.encode())

    def forget(self, vmid: str, owner: PveNode) -> None:
        """Its configuration is gone on all nodes (qm destroy without its disks, a lost pmxcfs)."""
        for node in self.nodes:
            node.host.run(["rm", self._path(vmid, owner)])

    def move(self, vmid: str, old: PveNode, new: PveNode) -> None:
        for node in self.nodes:
            if node.host.is_on():
                node.host.run(["mv", self._path(vmid, old), self._path(vmid, new)])

    def _path(self, vmid: str, node: PveNode) -> str:
        return f"/etc/pve/nodes/{node.name}/qemu-server/{vmid}.conf"


def two_nodes(lab: Lab, config: str = "") -> tuple[NfsServer, PveNode, PveNode]:
    """A server with a lease of 10 s and two guarded nodes that have it mounted."""
    server = lab.nfs_server(lease=10, grace=10)
    nodes = [PveNode(lab.hypervisor(name), config) for name in ("hyp-a", "hyp-b")]
    for node in nodes:
        node.mount(server, STORE)
        node.start_daemon()
    return server, nodes[0], nodes[1]
