"""Plays a story: reads events.yaml, lets it happen in simulated time, gives back the whole timeline.

events.yaml::

    servers: {nas: {lease: 10, grace: 10, courteous: true}}     # all of it may be left out
    hosts: {A: {margin: 2}, B: {}}                              # wishes of timing.py
    records: false                                              # no owner records, and so no fencing token
    proves-starts: false                                        # control: a start never asks for its locks again
    believes-all: true                                          # control: any answer to SEEK counts, whoever gave it
    vms: {web: {host: A, disks: [nas:web], pinned: true, policy: {on_lost: fence},
               stakes: {nas:cd: spare}}}            # files that it only reads
    events: [[12, down nas], [42, up nas]]                      # second, what happens: see VERBS
    until: 60
    expect: [write, runs]      # violations of the promise that MUST be seen: negative controls and stated limits
    end: {web@A: running}      # what must be true in the end; ``gone`` when there is no such VM any more
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.stories.host import Host
from tests.stories.machine import Vm
from tests.stories.world import Server, Sim
from vmguard.core.watchdog.events import Adopted, Arm, Disarm, Hint, HintKind, MountSeen, Rival, StartRefused
from vmguard.core.watchdog.policy import Policy, Stake
from vmguard.core.watchdog.timing import Wishes


class Story:
    """One story being played."""

    def __init__(self, plot: dict[str, Any]) -> None:
        self.plot = plot
        self.sim = Sim()
        self.servers = {
            name: Server(self.sim, name, **{"lease": 10.0, "grace": 10.0, **(values or {})})
            for name, values in plot.get("servers", {"nas": None}).items()
        }
        self.epochs: dict[str, int] = {}
        self.hosts: dict[str, Host] = {}
        for name, wishes in plot.get("hosts", {"A": None, "B": None}).items():
            self._add_host(name, name, Wishes(**(wishes or {})))
        for name, values in plot["vms"].items():
            policy = Policy(**values.get("policy", {}))
            vm = Vm(name, self.hosts[values.get("host", "A")], policy, values.get("pinned", True))
            vm.stakes = {path: Stake(stake) for path, stake in values.get("stakes", {}).items()}
            vm.host.start(vm, [*values["disks"], *vm.stakes])
        for second, text in plot["events"]:
            self.sim.at(second, lambda text=text: self._happen(text))  # type: ignore[misc]

    def play(self) -> list[str]:
        """The timeline. Every invariant of the core is checked at each step, those of the world at each write."""
        self.sim.run(self.plot["until"])
        for host in self.hosts.values():
            if host.watch is not None:
                host.watch.check_invariants()
        return self.sim.lines

    def ends(self) -> dict[str, str]:
        """What the VMs named under ``end`` are doing."""
        found = {}
        for key in self.plot.get("end", {}):
            name, _, host = key.partition("@")
            vm = self.hosts[host].vms.get(name)
            found[key] = "gone" if vm is None else vm.state
        return found

    def _add_host(self, name: str, identity: str, wishes: Wishes) -> Host:
        host = self.hosts[name] = Host(self.sim, name, identity, self.servers, wishes)
        host.peers = lambda path: [vm for other in self.hosts.values() for vm in other.vms.values() if path in vm.locks]
        host.epochs = self.epochs
        host.has_records = self.plot.get("records", True)
        host.proves_starts = self.plot.get("proves-starts", True)
        host.believes_all = self.plot.get("believes-all", False)
        host.on_fenced = self._after_fence
        return host

    def _start(self, name: str, host: str, disks: list[str], policy: Policy, pinned: bool = True) -> None:
        self.hosts[host].start(Vm(name, self.hosts[host], policy, pinned), list(disks))

    def _after_fence(self, vm: Vm) -> None:
        if vm.policy.after_fence == "restart" and vm.host.watch is not None:
            why_not = vm.host.watch.why_no_restart({path.partition(":")[0] for path in vm.epochs})
            if why_not:
                vm.host.say(f"   {vm.name} is not started again: {why_not}")
                return
            vm.host.say(f"   {vm.name} is started again by an ordinary claim")
            self._start(vm.name, vm.host.name, sorted(vm.epochs), vm.policy, vm.pinned)

    def _happen(self, text: str) -> None:
        verb, *words = text.split()
        self.sim.say("--", text)
        VERBS[verb](self, words)


def _verb(function: Callable[..., None]) -> Callable[[Story, list[str]], None]:
    return lambda story, words: function(story, *words)


def _up(story: Story, name: str, *how: str) -> None:
    """up nas [forgets] [grace=5] [lease=20] [deny=A] [older=A]"""
    values = dict(word.split("=") for word in how if "=" in word)
    server = story.servers[name]
    server.denied = {values["deny"]} if "deny" in values else set()
    grace, lease = values.get("grace"), values.get("lease")
    older = (values["older"],) if "older" in values else ()
    server.boot("forgets" in how, float(grace) if grace else None, float(lease) if lease else None, older)
    _reconnect(story)


def _reconnect(story: Story) -> None:
    for host in story.hosts.values():
        host.kernel.wake()


def _cut(story: Story, host: str, server: str) -> None:
    story.hosts[host].kernel.cut_from.add(server)


def _heal(story: Story, host: str, server: str) -> None:
    story.hosts[host].kernel.cut_from.discard(server)
    story.hosts[host].kernel.wake()


def _start(story: Story, name: str, _on: str, host: str) -> None:
    values = story.plot["vms"][name]
    story._start(name, host, values["disks"], Policy(**values.get("policy", {})), values.get("pinned", True))


def _new(story: Story, name: str, _on: str, host: str, *disks: str) -> None:
    story._start(name, host, list(disks), Policy())


def _vm(story: Story, name: str) -> Vm:
    return next(host.vms[name] for host in story.hosts.values() if name in host.vms)


def _stop(story: Story, name: str) -> None:
    vm = _vm(story, name)
    vm.host.end(vm, "stopped by its admin")


def _plug(story: Story, name: str, path: str) -> None:
    vm = _vm(story, name)
    vm.host.claim(vm, path, lambda: vm.host.tell(vm))


def _unplug(story: Story, name: str, path: str) -> None:
    vm = _vm(story, name)
    item = vm.locks.pop(path)
    vm.host._unlock(item, lambda: None)
    vm.host.tell(vm)


def _policy(story: Story, name: str, *settings: str) -> None:
    vm = _vm(story, name)
    values: dict[str, Any] = {**dataclasses.asdict(vm.policy), **dict(word.split("=") for word in settings)}
    values["log_only"] = str(values["log_only"]) == "True"
    vm.policy = Policy(**values)
    vm.host.tell(vm)


def _lease(story: Story, name: str) -> None:
    """The daemons read the lease time from mountstats again."""
    for host in story.hosts.values():
        if host.watch is not None and name in host.watch.mounts:
            host.feed(lambda now: MountSeen(now, name, story.servers[name].lease))


def _rival(story: Story, name: str, path: str, *holder: str) -> None:
    """rival web nas:web another host: web writes to a disk whose lock it does not have"""
    vm = _vm(story, name)
    vm.host.meet(vm, Rival(path, f"locked by {' '.join(holder)}"))


def _rival_gone(story: Story, name: str, path: str) -> None:
    vm = _vm(story, name)
    del vm.rivals[path]
    vm.host.tell(vm)


def _refuse(story: Story, name: str, *why: str) -> None:
    vm = _vm(story, name)
    vm.host.feed(lambda now: StartRefused(now, vm.name, " ".join(why)))


def _forget_records(story: Story) -> None:
    story.epochs.clear()


def _unreadable_records(story: Story, problem: str = "") -> None:
    for host in story.hosts.values():
        host.record_problem = problem


def _adopt(story: Story, name: str) -> None:
    vm = _vm(story, name)
    vm.host.feed(lambda now: Adopted(now, vm.name))


def _hint(story: Story, host: str, server: str, *words: str) -> None:
    story.hosts[host].feed(lambda now: Hint(now, server, HintKind.KERNEL_LOG, " ".join(words)))


def _clone(story: Story, name: str, _of: str, victim: str) -> None:
    """Another host with the same identity: each second it sends something."""
    clone = story._add_host(name, story.hosts[victim].kernel.identity, Wishes())

    def contact() -> None:
        for server in story.servers.values():
            if server.up and not clone.kernel.dead:
                server.contact(clone.kernel)
        if not clone.kernel.dead:
            story.sim.after(1.0, contact)

    contact()


def _power(story: Story, host: str) -> None:
    story.hosts[host].kernel.dead = True


def _stubborn(story: Story, name: str, what: str = "") -> None:
    """stubborn web freeze|thaw|copy|kill: that does not work on it; without a word: it does again."""
    _vm(story, name).stubborn = what


def _error(story: Story, path: str, problem: str = "") -> None:
    server, _, file = path.partition(":")
    story.servers[server].errors[file] = problem


def _seek(story: Story, name: str, how: str) -> None:
    """seek nas right|absent|odd: how it answers SEEK from now on"""
    story.servers[name].seek = how


def _busy(story: Story, host: str, path: str, word: str = "") -> None:
    """busy A nas:web [no]: no page of that file can be read past A's page cache [any can, again]"""
    busy = story.hosts[host].kernel.busy
    (busy.discard if word else busy.add)(path)


def _umount(story: Story, host: str, server: str) -> None:
    story.hosts[host].kernel.cut_queue(story.servers[server])


def _slow(story: Story, name: str, seconds: str) -> None:
    story.servers[name].round_trip = float(seconds)


def _disarm(story: Story, host: str, seconds: str, *reason: str) -> None:
    story.hosts[host].feed(lambda now: Disarm(now, now + float(seconds), " ".join(reason)))


def _endgrace(story: Story, name: str) -> None:
    story.servers[name].grace_until = story.sim.now


def _asleep(story: Story, host: str) -> None:
    story.hosts[host].sleep()


def _resume(story: Story, host: str, seconds: str) -> None:
    story.hosts[host].awake(float(seconds))


VERBS: dict[str, Callable[[Story, list[str]], None]] = {
    "down": _verb(lambda story, name: story.servers[name].down()),
    "up": _verb(_up),
    "cut": _verb(_cut),
    "heal": _verb(_heal),
    "start": _verb(_start),
    "new": _verb(_new),
    "stop": _verb(_stop),
    "plug": _verb(_plug),
    "unplug": _verb(_unplug),
    "policy": _verb(_policy),
    "lease": _verb(_lease),
    "rival": _verb(_rival),
    "rival-gone": _verb(_rival_gone),
    "refuse": _verb(_refuse),
    "adopt": _verb(_adopt),
    "forget-records": _verb(_forget_records),
    "unreadable-records": _verb(_unreadable_records),
    "hint": _verb(_hint),
    "clone": _verb(_clone),
    "power-off": _verb(_power),
    "stubborn": _verb(_stubborn),
    "error": _verb(_error),
    "seek": _verb(_seek),
    "busy": _verb(_busy),
    "umount-f": _verb(_umount),
    "slow": _verb(_slow),
    "disarm": _verb(_disarm),
    "arm": _verb(lambda story, host: story.hosts[host].feed(lambda now: Arm(now, "by its admin"))),
    "end-grace": _verb(_endgrace),
    "revoke": _verb(lambda story, host, server: story.servers[server].revoke_client(host)),
    "revoke-lock": _verb(lambda story, path: story.servers[path.split(":")[0]].revoke_lock(path.split(":")[1])),
    "stop-daemon": _verb(lambda story, host: story.hosts[host].stop_daemon()),
    "continue-daemon": _verb(lambda story, host: story.hosts[host].continue_daemon()),
    "kill-daemon": _verb(lambda story, host: story.hosts[host].kill_daemon()),
    "start-daemon": _verb(lambda story, host: story.hosts[host].start_daemon()),
    "suspend": _verb(_asleep),
    "resume": _verb(_resume),
    "note": _verb(lambda story, *words: None),
}


def load(folder: Path) -> Story:
    return Story(yaml.safe_load((folder / "events.yaml").read_text()))
