"""Observations for the watchdog's scenarios: when a VM wrote, when it stood still, what daemon and kernel logged."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.lab.guest import PYTHON
from tests.lab.qemu import Vm
from tests.support.guarded_guests import VMGUARD, Guarded, Guest
from vmguard.core.watchdog import trace

LEASE = 10
LONG = bool(os.environ.get("VMGUARD_LONG"))
#: the fixture record_property; measurements are printed at the end, over all runs (tests/conftest.py)
Measured = Callable[[str, float], None]
#: seconds by which an observation may be late on a busy machine
SEEN = 0.25
RUN = "/run/vmguard"


#: runs in a guest; prints each time a process stops (all of its threads) or continues
_WATCH_STATE = """
import os, sys, time
still = {}
while True:
    for pid in sys.argv[1:]:
        try:
            tasks = os.listdir(f"/proc/{pid}/task")
            states = {open(f"/proc/{pid}/task/{task}/stat").read().rpartition(") ")[2][0] for task in tasks}
        except OSError:
            states = set()
        now = "T" in states and states <= {"T", "D"}  # D: a hung write; the thread stops once it completes
        if still.get(pid, False) != now:
            still[pid] = now
            print(pid, "still" if now else "runs", time.time(), flush=True)
    time.sleep(0.05)
"""


class Stillness:
    """When each QEMU of a host stood still, by the clock that all guests and this machine share."""

    def __init__(self, node: Guarded, vms: dict[str, Vm]) -> None:
        self._pids = {str(vm.job.wait_started()): name for name, vm in vms.items()}
        self._job = node.host.spawn([PYTHON, "-c", _WATCH_STATE, *self._pids])

    def since(self) -> dict[str, float]:
        """Return the VMs that stand still now, and since when."""
        found: dict[str, float] = {}
        for line in self._job.output()[0].splitlines():
            pid, word, at = line.split()
            found.pop(self._pids[pid], None)
            if word == "still":
                found[self._pids[pid]] = float(at)
        return found

    def end(self) -> None:
        self._job.kill()


class Beats:
    """A sampler of VMs' beats by this machine's clock, for the length of a ``with`` block."""

    def __init__(self, **vms: Vm) -> None:
        self.vms = dict(vms)
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Beats:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            for name, vm in list(self.vms.items()):
                count, now = vm.beats().count("."), time.time()
                if count > self._counts.get(name, 0):
                    self.first.setdefault(name, now)
                    self.last[name] = now
                self._counts[name] = count
            time.sleep(0.02)


def wait_until(what: str, true: Callable[[], object], seconds: float, log: Callable[[], str]) -> float:
    """Wait for a condition; return the seconds it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds:.0f} s: {what}\n{log()}"
        time.sleep(0.05)
    return time.monotonic() - began


def started(node: Guarded, name: str, locking: str = "off", pinned: bool = True) -> tuple[Guest, Vm]:
    """Start a guarded VM; return once it writes and the watchdog has found its locks in order."""
    guest = Guest(name)
    node.make_disks(guest)
    return guest, start(node, guest, locking, pinned)


def start(node: Guarded, guest: Guest, locking: str = "off", pinned: bool = True, cache: str = "none") -> Vm:
    vm = node.start_vm(guest, locking, pinned, cache)
    node.wait_for(guest, lambda found: found["watch"] and {k["verdict"] for k in found["watch"]["locks"]} == {"kept"})
    return vm


def dead(vm: Vm) -> bool:
    return vm.job.poll() is not None


def history(node: Guarded, guest: Guest | None = None) -> list[dict[str, Any]]:
    """Return what the daemon has reported, about one VM if given; it must be a history that the machine can write."""
    lines = node.host.run(f"cat {RUN}/history.jsonl", check=False).stdout.splitlines()
    entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert trace.faults(entries) == [], "\n".join(lines)
    return [entry for entry in entries if guest is None or entry["fields"].get("uuid") == guest.uuid]


def codes(node: Guarded, guest: Guest | None = None) -> list[str]:
    return [entry["code"] for entry in history(node, guest)]


def when(node: Guarded, guest: Guest, code: str) -> float:
    """Return the node's CLOCK_BOOTTIME of the first report with a code."""
    return next(float(entry["boottime"]) for entry in history(node, guest) if entry["code"] == code)


def kernel_said(node: Guarded, pattern: str) -> float:
    """Return the CLOCK_BOOTTIME of the kernel's last such message; its log's own clock is converted."""
    clock = "python3 -c 'import time; print(time.clock_gettime(time.CLOCK_BOOTTIME))'"
    now = float(node.host.run(f"{clock} | tee /dev/stderr | sed s/^/vmguard-mark-/ > /dev/kmsg").stderr)
    lines = node.host.run(["dmesg"]).stdout.splitlines()
    stamps = [(float(found[1]), found[2]) for line in lines if (found := re.match(r"\[ *([0-9.]+)\] (.*)", line))]
    mark = next(stamp for stamp, text in reversed(stamps) if f"vmguard-mark-{now}" in text)
    said = next(stamp for stamp, text in reversed(stamps) if re.search(pattern, text))
    return said + now - mark


def clean_up(node: Guarded, *pairs: tuple[Guest, Vm]) -> None:
    for _, vm in pairs:
        if not dead(vm):
            vm.kill()
    for guest, _ in pairs:
        node.wait_released(guest, 60)


def vmguard(node: Guarded, *words: str) -> str:
    """Run a vmguard command; return its output for people."""
    return node.host.run([VMGUARD, *words], 30, check=False).stdout
