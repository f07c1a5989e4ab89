"""The story of the demo. Each step is checked: the demo fails when vmguard does. ``--html FILE`` leaves a picture."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.demo import incident
from tests.demo.screen import Row, Screen
from tests.lab import Lab, LabError, NfsServer
from tests.lab.domain import domain_xml
from tests.lab.heartbeat import heartbeat_disk
from tests.support.guarded_guests import SHARE, Guarded, two_nodes

LEASE = 10
VM = "web"


class Failed(Exception):
    """A step did not go as promised."""


class Demo:
    """The lab, its two hosts, and the picture of them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.rows = {name: Row(name) for name in ("storage", "hyp-a", "hyp-b")}
        self.screen = Screen(list(self.rows.values()), self.look)
        self.server: NfsServer | None = None
        self.nodes: list[Guarded] = []

    def look(self) -> None:
        """Refresh the table: what each host says of itself."""
        if self.server is not None:
            self.rows["storage"].state = "up" if self.server.is_on() else "OFF"
        for node in list(self.nodes):
            row = self.rows[node.name]
            try:
                if not node.host.is_on():
                    row.state, row.vm, row.lock, row.writes = "OFF", "", "", ""
                    continue
                vms = node.status()
                row.state = "up"
                row.vm = ", ".join(f"{vm['name']} {'FROZEN' if vm['frozen'] else vm['state']}" for vm in vms)
                locks = {f"{file['guard']} {file['ranges']}" for vm in vms for file in vm["files"]}
                row.lock = ", ".join(sorted(locks))
                beats = node.host.libvirt.beats(VM)
                row.writes = f"{beats.count('.')} ok, {beats.count('E')} failed" if beats else ""
            except (LabError, ValueError, KeyError):
                row.state = "no answer"

    def wait(self, what: str, true: Callable[[], bool], seconds: float) -> float:
        """Until something is true; how long it took, in seconds."""
        began = time.monotonic()
        while not true():
            if time.monotonic() - began > seconds:
                raise Failed(f"not within {seconds:.0f} s: {what}")
            time.sleep(0.1)
        return time.monotonic() - began

    def beats(self, node: Guarded) -> int:
        return node.host.libvirt.beats(VM).count(".")

    def wait_beats(self, node: Guarded, count: int, seconds: float = 30) -> None:
        goal = self.beats(node) + count
        self.wait(f"{VM} writes on {node.name}", lambda: self.beats(node) >= goal, seconds)

    # -- the story --------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        self.screen.step(f"an NFSv4.2 server (lease {LEASE} s) and two hypervisors boot, each a kernel of its own")
        self.server, a, b = two_nodes(self.lab, libvirt=True)
        self.nodes = [a, b]
        disk = f"{SHARE}/{VM}.qcow2"
        a.host.put(disk, heartbeat_disk())
        for node in self.nodes:
            node.host.libvirt.define(domain_xml(VM, disk))

    def start_on_a(self) -> None:
        a = self.nodes[0]
        self.screen.step(f"hyp-a: virsh start {VM}")
        a.host.libvirt.virsh("start", VM)
        self.wait_beats(a, 3)
        report = a.check(VM)
        self.screen.detail(f"{report['status']}: {report['summary']}; {report['disks'][0]['text']}", "green")

    def refused_on_b(self) -> None:
        b = self.nodes[1]
        self.screen.step(f"hyp-b: virsh start {VM}, while it runs on hyp-a")
        began = time.monotonic()
        refused = b.host.libvirt.virsh("start", VM, check=False)
        if refused.returncode == 0:
            raise Failed("the VM runs on both hosts")
        said = refused.stderr[refused.stderr.find("vmguard:") :].strip()
        self.screen.detail(f"refused after {time.monotonic() - began:.1f} s:\n{said}", "yellow")
        if "hyp-a" not in said:
            raise Failed("the refusal does not name the holder")

    def storage_reboots(self) -> None:
        assert self.server is not None
        a = self.nodes[0]
        self.screen.step("the storage loses power for 12 s, longer than the lease")
        rebooting = threading.Thread(target=self.server.reboot, args=(12.0,))
        rebooting.start()
        self.wait("the VM is frozen", lambda: self.is_frozen(a), 30)
        self.screen.detail("hyp-a: nobody can know who will get the locks: the VM is frozen, not killed", "yellow")
        rebooting.join()
        self.screen.step("the storage is back: A reclaims its lock in the grace period")
        self.wait("the VM is thawed", lambda: not self.is_frozen(a), 60)
        self.wait_beats(a, 5, 60)
        self.say_log(a, "thawed")
        if a.host.libvirt.beats(VM).count("E"):
            raise Failed("the guest saw I/O errors")
        self.screen.detail("verdict KEPT: the guest writes on and saw no error", "green")

    def partition(self) -> None:
        a, b = self.nodes
        self.screen.step("hyp-a is cut off from the network; nobody tells hyp-b")
        self.lab.partition(a.host)
        began = time.monotonic()
        report = b.check(VM)
        self.screen.detail(f"hyp-b: {report['summary']}\n{report['disks'][0]['todo']}")
        self.wait("the VM is frozen", lambda: self.is_frozen(a), 30)
        self.screen.detail(f"hyp-a: frozen {time.monotonic() - began:.1f} s after the cut (lease {LEASE} s)", "yellow")
        self.screen.step(f"hyp-b: virsh start {VM}, again and again")
        while b.host.libvirt.virsh("start", VM, check=False).returncode:
            if time.monotonic() - began > 4 * LEASE:
                raise Failed("hyp-b does not get the disk")
        self.wait_beats(b, 3)
        self.screen.detail(f"hyp-b: runs {time.monotonic() - began:.1f} s after the cut", "green")

    def healed(self) -> None:
        a, b = self.nodes
        self.screen.step("the network of hyp-a is back: its lock is lost for good")
        self.lab.heal(a.host)
        self.wait("the VM on hyp-a is gone", lambda: not a.status(), 60)
        for word in ("LOST", "fenced"):
            self.say_log(a, word)
        if a.host.libvirt.beats(VM).count("E"):
            raise Failed("the guest on hyp-a ran on and saw errors: it was not frozen")
        self.wait_beats(b, 5)
        self.screen.detail("hyp-b: undisturbed, the only one that writes", "green")

    def is_frozen(self, node: Guarded) -> bool:
        return any(vm["frozen"] for vm in node.status())

    def say_log(self, node: Guarded, word: str) -> None:
        """The daemon's own words about it."""
        lines = [line for line in node.log().splitlines() if word in line]
        if not lines:
            raise Failed(f"{node.name} never said {word!r}")
        self.screen.detail(f"{node.name}: {lines[-1].partition(' ')[2]}", "cyan")

    def run(self) -> None:
        with self.screen.shown():
            for step in (
                self.boot,
                self.start_on_a,
                self.refused_on_b,
                self.storage_reboots,
                self.partition,
                self.healed,
            ):
                step()
                time.sleep(1)
                self.screen.table()
            self.screen.step("done")


def main() -> int:
    parser = argparse.ArgumentParser("tests/lab/demo")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the incidents of the demo as a page")
    args = parser.parse_args()
    with Lab() as lab:
        demo = Demo(lab)
        try:
            demo.run()
            if args.html is not None:
                incident.draw(demo.nodes, args.html)
        except (Failed, LabError) as problem:
            lab.keep_logs()
            print(f"demo: FAILED: {problem}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
