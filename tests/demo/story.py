"""The story of the demo. Each step is checked: the demo fails when vmguard does."""

from __future__ import annotations

import datetime
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.demo.disk import DiskWatch, Proof, proof
from tests.demo.screen import Row, Screen
from tests.lab import Lab, LabError, NfsServer
from tests.lab.domain import disk_xml, domain_xml
from tests.lab.heartbeat import heartbeat_disk
from tests.lab.qemu import Vm
from tests.support.guarded_guests import SHARE, VMGUARD, Guarded, Guest

LEASE = 10
VM = "web"
DISK = f"{SHARE}/{VM}.raw"
#: writes of the first VM before the second one begins to count: so far apart their numbers are told from each other
_FAR = 150
_NEXT = """\
next: README.md has the five minutes to two hosts of your own
      vmguard timing --lease 90 says when what happens with your server's lease
      tests/run repeats all this and much more, with a control beside each promise"""


class Failed(Exception):
    """A step did not go as promised."""


class Story:
    """The lab, its two hosts, and the picture of them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.rows = {name: Row(name) for name in ("storage", "hyp-a", "hyp-b")}
        self.screen = Screen(list(self.rows.values()), self.look)
        self.server: NfsServer | None = None
        self.nodes: list[Guarded] = []
        #: of the control: QEMUs that nobody guards, by host
        self.bare: dict[str, Vm] = {}
        self.watch: DiskWatch | None = None

    # -- the picture ------------------------------------------------------------------------------------------------

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
                row.state = "up"
                if node.daemon is None:
                    self._look_unguarded(node, row)
                else:
                    self._look_guarded(node, row)
            except (LabError, ValueError, KeyError):
                row.state = "no answer"

    def _look_unguarded(self, node: Guarded, row: Row) -> None:
        vm = self.bare.get(node.name)
        row.vm, row.lock = (f"{VM}, unguarded", "none") if vm is not None else ("", "")
        row.writes = _told(vm.beats()) if vm is not None else ""

    def _look_guarded(self, node: Guarded, row: Row) -> None:
        answer = node.host.run([VMGUARD, "status", "--json"], 60.0, check=False)
        status = json.loads(answer.stdout)
        vms = [f"{vm['name']} {'FROZEN' if vm['frozen'] else vm['state']}" for vm in status["vms"]]
        row.vm = ", ".join(vms or [f"{killed['name']} FENCED" for killed in status["fenced"]])
        row.lock = ", ".join(sorted({file["guard"] for vm in status["vms"] for file in vm["files"]}))
        row.writes = _told(node.host.libvirt.beats(VM))

    # -- waiting ----------------------------------------------------------------------------------------------------

    def wait(self, what: str, true: Callable[[], bool], seconds: float) -> float:
        """Wait until something is true; return how long it took, in seconds."""
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

    def is_frozen(self, node: Guarded) -> bool:
        return any(vm["frozen"] for vm in node.status())

    # -- without vmguard --------------------------------------------------------------------------------------------

    def boot(self) -> None:
        self.screen.step(f"an NFSv4.2 server (lease {LEASE} s) and two hypervisors boot, each a kernel of its own")
        self.server = self.lab.nfs_server(lease=LEASE, grace=LEASE)
        self.nodes = [Guarded(self.lab.hypervisor(name, libvirt=True)) for name in ("hyp-a", "hyp-b")]
        for node in self.nodes:
            node.mount(self.server)

    def control(self) -> None:
        """Show the damage that the rest of the story must not have."""
        assert self.server is not None
        a, b = self.nodes
        guest = Guest(VM, (f"{SHARE}/without.raw",))
        a.make_disks(guest)
        self.screen.step("the control: the same cut WITHOUT vmguard (QEMU locks nothing, as on Proxmox VE)")
        watch = DiskWatch(self.server, guest.paths[0])
        first = self.bare[a.name] = a.run_vm(guest, "off")
        first.wait_beats(_FAR, 60)
        self.lab.partition(a.host)
        self.screen.detail("hyp-a is cut off, hyp-b starts the VM, the network of hyp-a is back")
        second = self.bare[b.name] = b.run_vm(guest, "off")
        second.wait_beats(10)
        self.lab.heal(a.host)
        first.wait_beats(30, 60)
        second.wait_beats(5)
        first.kill()
        second.kill()
        found, told = proof(watch.writes(), _FAR), [vm.beats().count(".") for vm in (first, second)]
        watch.end()
        self.bare.clear()
        if found.overlap < 10 or found.steps_back < 5:
            raise Failed(f"the control shows no damage: overlap {found.overlap}")
        last = max([*found.first, *found.second]).number
        back = f"each counts up, the disk went back {found.steps_back} times"
        self.screen.detail(f"two writers: {found.overlap} writes of A over B's; {back}", "red")
        safe = f"A was told that its write {told[0]} is safe, B its write {told[1]}; it holds {last}"
        self.screen.detail(f"the disk is destroyed: {safe}", "red")

    # -- with it ----------------------------------------------------------------------------------------------------

    def guard(self) -> None:
        self.screen.step("now with vmguard, on both hosts")
        self.nodes[0].host.put(DISK, heartbeat_disk("raw"))
        for node in self.nodes:
            node.start_daemon()
            node.host.libvirt.restart()  # libvirtd looks for hooks only when it starts
            node.host.libvirt.define(domain_xml(VM, disk_xml(DISK, format="raw")))

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
        self.screen.detail("hyp-a: nobody can know who will get the locks, so the VM is frozen, not killed", "yellow")
        rebooting.join()
        self.screen.step("the storage is back: A reclaims its lock in the grace period")
        self.wait("the VM is thawed", lambda: not self.is_frozen(a), 60)
        self.wait_beats(a, 5, 60)
        self.say_log(a, "thawed")
        if a.host.libvirt.beats(VM).count("E"):
            raise Failed("the guest saw I/O errors")
        self.screen.detail("verdict KEPT: the guest writes on and saw no error", "green")

    def partition(self) -> None:
        assert self.server is not None
        a, b = self.nodes
        self.wait(f"{VM} has written much", lambda: self.beats(a) >= _FAR, 60)
        self.watch = DiskWatch(self.server, DISK)
        self.watch.wait_for(lambda writes: len(writes) > 5)
        self.screen.step("hyp-a is cut off from the network; nobody tells hyp-b")
        cut = float(a.host.get("/proc/uptime").split()[0])
        self.lab.partition(a.host)
        began = time.monotonic()
        report = b.check(VM)
        self.screen.detail(f"hyp-b: {report['summary']}\n{report['disks'][0]['todo']}")
        self.wait("the VM is frozen", lambda: self.is_frozen(a), 30)
        frozen = _last_incident(a)["vm.freeze"]["boottime"] - cut
        self.screen.detail(f"hyp-a: frozen {frozen:.1f} s after the cut (lease {LEASE} s)", "yellow")
        if frozen > LEASE:
            raise Failed("the VM ran on when its lease had ended")
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

    def prove(self) -> None:
        """Show that the promise was kept, from the disk itself and from the history."""
        assert self.watch is not None
        a, b = self.nodes
        self.screen.step("the proof, from the disk as the storage saw it, the guests, and the history")
        writes = self.watch.writes()
        found = proof(writes, writes[0].number)
        errors = sum(node.host.libvirt.beats(VM).count("E") for node in self.nodes)
        self.screen.detail(_sentence(found, errors), "green")
        self.screen.detail(f"hyp-a's history: {_history(a)}", "cyan")
        if found.overlap or found.gap <= 0 or errors or found.steps_back != 1:
            raise Failed(f"two wrote at a time: {found.steps_back} steps back")
        if b.check(VM)["status"] != "OK":
            raise Failed("the VM is not well on hyp-b")

    def say_log(self, node: Guarded, word: str) -> None:
        """Show the daemon's own words."""
        lines = [line for line in node.log().splitlines() if word in line]
        if not lines:
            raise Failed(f"{node.name} never said {word!r}")
        self.screen.detail(f"{node.name}: {lines[-1].partition(' ')[2]}", "cyan")

    def run(self) -> None:
        steps = (
            self.boot,
            self.control,
            self.guard,
            self.start_on_a,
            self.refused_on_b,
            self.storage_reboots,
            self.partition,
            self.healed,
            self.prove,
        )
        with self.screen.shown():
            for step in steps:
                step()
                time.sleep(1)
                self.screen.table()
            self.screen.step("done")
            self.screen.detail(_NEXT)
            self.look()  # the picture that stays is that of this moment


def _told(beats: str) -> str:
    return f"{beats.count('.')} ok, {beats.count('E')} failed" if beats else ""


def _clock(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%H:%M:%S.%f")[:-4]


def _sentence(found: Proof, errors: int) -> str:
    return (
        f"last write of A {_clock(found.first[-1].at)}, first write of B {_clock(found.second[0].at)}, "
        f"{found.gap:.1f} s between them, overlap {found.overlap}, I/O errors {errors}"
    )


def _history(node: Guarded) -> str:
    """Return the last freeze of the VM and what came of it, with their times."""
    found = _last_incident(node)
    wanted = {"vm.freeze": "frozen", "lock.lost": "its lock lost", "fence.done": "killed and drained"}
    if not wanted.keys() <= found.keys():
        raise Failed(f"the history of {node.name} has only {sorted(found)}")
    return ", ".join(f"{what} {_hours(str(found[code]['at']))}" for code, what in wanted.items())


def _last_incident(node: Guarded) -> dict[str, dict[str, Any]]:
    """Return the last entry of each kind in the VM's last incident."""
    answer = node.host.run([VMGUARD, "history", VM, "--json"], 60.0)
    incidents: list[list[dict[str, Any]]] = json.loads(answer.stdout)["incidents"]
    return {entry["code"]: entry for entry in (incidents[-1] if incidents else [])}


def _hours(at: str) -> str:
    return datetime.datetime.fromisoformat(at).strftime("%H:%M:%S")
