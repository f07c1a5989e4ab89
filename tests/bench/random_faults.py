"""Random faults over three guarded hosts, one server, two VMs: cables cut, storage rebooted, daemons and QEMUs killed.

    tests/bench/campaign 300 11 12 13

After each seed it says what must never be: a VM that writes on two hosts, one that is let go on after another host has
claimed its disk, one that nobody can start although every machine is up, a theft of identities that is none.
"""

from __future__ import annotations

import calendar
import random
import sys
import threading
import time
from collections.abc import Callable

from tests.lab import Lab
from tests.lab.errors import LabError
from tests.lab.qemu import Vm
from tests.scenarios.kept import Stored
from tests.support.guarded_guests import Guest
from tests.support.watched_guests import codes, dead, history

#: seconds in which a VM whose machines are all up must have started somewhere
_STARTABLE = 90.0
#: seconds after another host's claim in which beats may still be read that were written before it
_SEEN = 1.0
#: two hosts whose VMs wrote within so many seconds write at once
_AT_ONCE = 0.3


class Campaign:
    """One seed's hosts, VMs, and what was seen of them."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab = lab
        self.random = random.Random(seed)
        self.began = time.time()
        self.server = lab.nfs_server()
        self.hosts = [Stored(lab.hypervisor(f"hyp-{letter}"), "hook: {wait: 0s}\n") for letter in "abc"]
        for host in self.hosts:
            host.mount(self.server)
            host.start_daemon()
        self.guests = [Guest(f"vm{number}") for number in range(2)]
        for guest in self.guests:
            self.hosts[0].make_disks(guest)
        self.cut: set[str] = set()
        #: for each VM, when which host claimed its disk
        self.claims: dict[str, list[tuple[float, str]]] = {guest.name: [] for guest in self.guests}
        #: VMs by name and host
        self.runs: dict[tuple[str, str], Vm] = {}
        self.wrong: list[str] = []
        self._over = threading.Event()

    def say(self, *words: object) -> None:
        print(f"{time.time() - self.began:7.1f}", *words, flush=True)

    def blame(self, text: str) -> None:
        if text not in self.wrong:
            self.wrong.append(text)
            self.say("WRONG:", text)

    def run(self, seconds: float) -> None:
        """Let faults happen for so many seconds once both VMs run, then mend all and judge."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        for guest in self.guests:
            self.start(guest)
        until = time.time() + seconds  # the guests' boot takes a minute on a busy machine
        faults: list[Callable[[Stored], None]] = [
            *(self._cut, self._heal, self._heal, self._reboot, self._long_reboot, self._kill_daemon, self._kill_vms),
            *(self._stop_daemon, self._start_what_is_down, self._start_what_is_down),
        ]
        while time.time() < until:
            fault, host = self.random.choice(faults), self.random.choice(self.hosts)
            try:
                fault(host)
            except (LabError, AssertionError) as problem:
                self.say(fault.__name__, host.name, repr(problem)[:200])
            time.sleep(self.random.uniform(0.5, 8))
        for host in self.hosts:
            self._heal(host)
        time.sleep(25)
        self._start_what_is_down(self.hosts[0])
        self._over.set()
        watcher.join()
        for host in self.hosts:
            self._judge(host)

    # -- faults -----------------------------------------------------------------------------------------------------

    def _cut(self, host: Stored) -> None:
        if len(self.cut) < 2 and host.name not in self.cut:
            self.say("cut", host.name)
            self.lab.partition(host.host)
            self.cut.add(host.name)

    def _heal(self, _: Stored) -> None:
        for host in self.hosts:
            if host.name in self.cut:
                self.say("heal", host.name)
                self.lab.heal(host.host)
                self.cut.discard(host.name)
                return

    def _reboot(self, _: Stored, least: float = 0.0, most: float = 3.0) -> None:
        down = self.random.uniform(least, most)
        self.say(f"reboot of the storage, off for {down:.1f} s")
        self.server.reboot(down)

    def _long_reboot(self, host: Stored) -> None:
        self._reboot(host, 9.0, 16.0)

    def _kill_daemon(self, host: Stored) -> None:
        self.say("kill the daemon of", host.name)
        host.kill_daemon()

    def _stop_daemon(self, host: Stored) -> None:
        self.say("stop the daemon of", host.name, "for 4 s")
        host.host.run("p=$(pgrep -o -x vmguard); kill -STOP $p; sleep 4; kill -CONT $p", 15, check=False)

    def _kill_vms(self, host: Stored) -> None:
        for (name, where), vm in list(self.runs.items()):
            if where == host.name and not dead(vm) and self.random.random() < 0.5:
                self.say("kill", name, "on", where)
                vm.job.kill()

    def _start_what_is_down(self, _: Stored) -> None:
        for guest in self.guests:
            reachable = [where for (name, where), vm in self.runs.items() if name == guest.name and not dead(vm)]
            if not set(reachable) - self.cut:
                self.start(guest)

    def start(self, guest: Guest) -> None:
        """Start a VM on one of the hosts that are not cut off."""
        hosts = [host for host in self.hosts if host.name not in self.cut]
        self.random.shuffle(hosts)
        began = time.time()
        while time.time() - began < _STARTABLE:
            for host in hosts:
                try:
                    if host.claim(guest, 60).returncode == 0:
                        self.claims[guest.name].append((time.time(), host.name))
                        self.runs[guest.name, host.name] = vm = host.run_vm(guest, "off")
                        vm.wait_beats(2, timeout=40)
                        self.say("started", guest.name, "on", host.name, f"after {time.time() - began:.1f} s")
                        return
                except LabError as problem:
                    self.say("start of", guest.name, "on", host.name, repr(problem)[:200])
            time.sleep(1)
        self.blame(f"{guest.name} cannot be started: {[host.check(guest.name)['summary'] for host in hosts]}")

    # -- what was seen ----------------------------------------------------------------------------------------------

    def _owner(self, name: str, when: float) -> str:
        """Return the host with the newest claim before a moment; empty if there was none."""
        return next((host for at, host in reversed(self.claims[name]) if at < when - _SEEN), "")

    def _watch(self) -> None:
        counts: dict[tuple[str, str], int] = {}
        moved: dict[tuple[str, str], float] = {}
        while not self._over.is_set():
            now = time.time()
            for (name, host), vm in list(self.runs.items()):
                count = vm.beats().count(".")
                if count > counts.get((name, host), 0):
                    moved[name, host] = now
                    owner = self._owner(name, now)
                    if owner not in ("", host):
                        self.blame(f"{name} goes on at {host}, {owner} has claimed it")
                counts[name, host] = count
            for guest in self.guests:
                live = [host for (name, host), at in moved.items() if name == guest.name and now - at < _AT_ONCE]
                if len(live) > 1:
                    self.blame(f"{guest.name} writes on {live} at once")
            time.sleep(0.1)

    def _judge(self, host: Stored) -> None:
        for guest in self.guests:
            for entry in history(host, guest):
                at = calendar.timegm(time.strptime(entry["at"], "%Y-%m-%dT%H:%M:%SZ"))
                owner = self._owner(guest.name, at)
                if entry["code"] == "vm.thaw" and owner not in ("", host.name):
                    self.blame(f"{host.name} let {guest.name} go on after the claim of {owner}: {entry}")
        found = codes(host)
        if "mount.identity-stolen" in found:
            self.blame(f"{host.name} reports a stolen identity")
        self.say(host.name, {code: found.count(code) for code in sorted(set(found))})


def main() -> int:
    seconds, *seeds = [int(word) for word in sys.argv[1:]] or [300]
    wrong = 0
    for seed in seeds or [1]:
        with Lab() as lab:
            campaign = Campaign(lab, seed)
            campaign.run(seconds)
            print(f"seed {seed}, {seconds} s:", campaign.wrong or "nothing wrong", flush=True)
            wrong += len(campaign.wrong)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
