"""The watchdog inside the daemon: what it is told, whose orders it carries out, what it does when one of them fails."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.simulated_loop import SimulatedLoop
from vmguard import config
from vmguard.adapters.linux import clock
from vmguard.adapters.linux.mount_table import MountTable
from vmguard.adapters.linux.mounts import Mount
from vmguard.adapters.linux.mountstats import NfsStatistics, all_statistics
from vmguard.adapters.storage import lock_probe
from vmguard.config.settings import Config
from vmguard.core.locks.claim_states import State
from vmguard.core.locks.guard_states import Pin
from vmguard.core.locks.plan import DISK, EXCLUSIVE
from vmguard.core.watchdog.events import Act, Acted, Probe, Thaw, VmInfo
from vmguard.core.watchdog.machine import Watch
from vmguard.core.watchdog.policy import Policy
from vmguard.core.watchdog.states import Phase
from vmguard.core.watchdog.timing import Wishes
from vmguard.daemon import wiring
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import StorageThreads
from vmguard.daemon.watch import observer
from vmguard.daemon.watch.driver import Driver
from vmguard.daemon.watch.observer import Observer, server_of


class Table(MountTable):
    """The made-up mounts of a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def mounts(self) -> Iterator[Mount]:
        return iter(self._world.mounts)

    def statistics(self) -> dict[str, NfsStatistics]:
        return self._world.statistics


class World:
    """A watcher over a made-up NFS mount at a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.device = folder.stat().st_dev
        self.point = "/srv/vm"
        self.mounts = [Mount(1, self.device, self.point, "nfs4", "10.0.0.1:/vm", "vers=4.1")]
        seen = NfsStatistics(self.point)
        seen.lease = 10.0
        self.statistics = {self.point: seen}
        self.loop = Loop()
        self.parts = self._build()

    def _build(self) -> wiring.Parts:
        return wiring.Parts(self.loop, str(self.folder / "run"), Config, table=Table(self))

    def begin(self) -> None:
        """Have another daemon take the VMs up, as after a restart."""
        vms = list(self.registry)
        self.parts = self._build()
        for vm in vms:
            self.registry.take_up(vm)

    @property
    def registry(self) -> Registry:
        return self.parts.registry

    @property
    def watch(self) -> Watch:
        return self.parts.watch

    @property
    def driver(self) -> Driver:
        return self.parts.driver

    @property
    def observer(self) -> Observer:
        return self.parts.observer

    def vm(self, name: str) -> GuardedVm:
        path = self.folder / f"{name}.raw"
        path.write_bytes(bytes(8192))
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)  # as a claim does; a probe reads past the page cache
        file = GuardedFile(str(path), EXCLUSIVE, DISK, "", (self.device, path.stat().st_ino), [(0, 0)])
        file.guard.received(fd)
        vm = GuardedVm("libvirt", name, name, [file], State.RUNNING)
        self.registry.add(vm)
        return vm

    def verdicts(self) -> dict[str, str]:
        return {lock.info.id.vm: str(lock.verdict) for lock in self.watch.mounts[self.point].locks.values()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    os.mkdir(tmp_path / "run")
    return World(tmp_path)


def test_every_lock_on_an_nfs_mount_is_asked_and_found_kept(world: World) -> None:
    for name in ("web", "db"):
        world.vm(name)
    world.observer.look()
    for _ in range(50):
        world.loop.turn()
        if set(world.verdicts().values()) == {"kept"}:
            break
    assert world.verdicts() == {"libvirt-web": "kept", "libvirt-db": "kept"}
    assert world.watch.mounts[world.point].probes == "READ (NFSv4.2 alone has SEEK)"


@pytest.mark.parametrize(("age", "phase"), [(1.0, Phase.HEALTHY), (7.0, Phase.LATE), (9.0, Phase.AT_RISK)])
def test_a_daemon_goes_by_the_age_of_the_lease_that_the_one_before_knew(
    world: World, monkeypatch: pytest.MonkeyPatch, age: float, phase: Phase
) -> None:
    world.vm("web")
    world.observer.look()
    assert world.watch.mounts[world.point].phase is Phase.LATE  # nothing known: the time of one verdict is left
    world.watch.mounts[world.point].confirmed = clock.boottime() - age
    world.observer.keep_leases()
    world.begin()
    world.observer.look()
    assert world.watch.mounts[world.point].phase is phase


def test_an_event_brings_the_next_tick_forward_and_never_back() -> None:
    wanted = 1060.0

    class Wishing(Watch):
        def wake_at(self) -> float:
            return wanted

    loop = SimulatedLoop(1000.0)
    driver = Driver(loop, Wishing(Wishes()), carry_out=lambda effect: None)
    driver.start()
    assert driver._due == 1001.0  # the boot clock is looked at each second, whatever is due
    for next_wish, due in ((1000.3, 1000.3), (1000.7, 1000.3), (999.0, 1000.01)):
        wanted = next_wish
        driver.feed(Acted(loop.now(), "nobody", Act.THAW, True))
        assert driver._due == due
    loop.time, wanted = 1000.02, 1000.5
    loop.turn()
    assert driver._due == 1000.5
    loop.time = 1000.4
    loop.turn()  # the ticks that were planned later are cancelled
    assert driver._due == 1000.5


def test_an_io_error_of_qemu_is_a_reason_to_ask_its_locks_and_no_verdict(world: World) -> None:
    vm, other = world.vm("web"), world.vm("db")
    world.observer.look()
    while set(world.verdicts().values()) != {"kept"}:
        world.loop.turn()
    world.observer.io_error(vm)
    assert world.verdicts() == {vm.id: "unknown", other.id: "kept"}
    while set(world.verdicts().values()) != {"kept"}:
        world.loop.turn()
    world.registry.remove(vm)
    world.observer.look()
    world.observer.io_error(vm)


def test_a_vm_that_is_released_and_claimed_anew_between_two_looks_is_a_new_one(world: World) -> None:
    old = world.vm("web")
    world.observer.look()
    before = world.watch.vms[old.id]
    world.registry.remove(old)
    world.vm("web")
    world.observer.look()
    assert world.watch.vms[old.id] is not before


def told(world: World, vm: GuardedVm) -> VmInfo:
    return world.watch.vms[vm.id].info


def test_news_of_a_vm_are_told_at_the_next_look(world: World) -> None:
    vm = world.vm("web")
    world.observer.look()
    assert (told(world, vm).process, told(world, vm).locks[0].pinned) == (True, False)
    vm.files[0].guard.pinned_on(Pin(1, 3), vm.files[0].guard.descriptor, None)
    world.registry.save(vm)
    world.observer.look()
    assert told(world, vm).locks[0].pinned
    vm.move(State.ENDED, "it is gone")
    world.observer.look()
    assert not told(world, vm).process


def test_what_changes_without_a_word_is_seen_soon_all_the_same(world: World) -> None:
    vms = [world.vm(f"vm{number}") for number in range(15)]
    world.observer.look()
    for vm in vms:
        vm.frozen = True
    for _ in range(observer.SWEEP_LOOKS):
        world.observer.look()
    assert all(told(world, vm).frozen for vm in vms)


def test_vms_of_which_there_is_no_news_cost_next_to_nothing(world: World) -> None:
    for number in range(50):
        world.vm(f"vm{number}")
    asked: list[str] = []

    def policy(vm: GuardedVm) -> Policy:
        asked.append(vm.id)
        return Policy()

    looking = Observer(world.loop, world.registry, world.watch, world.driver.feed, policy, table=Table(world))
    looking.look()
    asked.clear()
    for _ in range(observer.SWEEP_LOOKS):
        looking.look()
    assert sorted(asked) == sorted(world.registry.ids), "each of them once"


def test_a_new_session_of_a_mount_is_told_once(world: World) -> None:
    told_of: list[tuple[str, float]] = []
    parts = (world.loop, world.registry, world.watch, world.driver.feed, lambda vm: Policy(), None, Table(world))
    looking = Observer(*parts, lambda mount, lease: told_of.append((mount.point, lease)))
    seen = world.statistics[world.point]
    seen.operations["CREATE_SESSION"] = "1 1 0 100 100 0 1 1"
    for _ in range(3):
        looking.look()
    assert told_of == [], "control: it is the one that was there when the daemon came"
    seen.operations["CREATE_SESSION"] = "2 2 0 200 200 0 2 2"
    for _ in range(3):
        looking.look()
    assert told_of == [(world.point, seen.lease)]


def test_another_lease_time_and_another_name_of_a_mount_are_news_of_all_its_vms(world: World) -> None:
    vm = world.vm("web")
    world.observer.look()
    world.statistics[world.point].lease = 20.0
    world.observer.look()
    assert world.watch.mounts[world.point].timeline.lease == 20.0
    world.statistics["/srv/moved"] = world.statistics.pop(world.point)
    world.mounts[:] = [Mount(2, world.device, "/srv/moved", "nfs4", "10.0.0.1:/vm", "vers=4.1")]
    world.observer.look()
    assert [lock.mount for lock in told(world, vm).locks] == ["/srv/moved"]


def test_a_lock_that_ended_with_its_qemu_is_not_asked_for_any_more(world: World) -> None:
    """Somebody else may have the disk open for long after it; its lease must not be said to run out meanwhile."""
    vm = world.vm("web")
    before = vm.files[0].guard.pinned_on(Pin(os.getpid(), 3, "qemu"), None, None)
    assert before is not None
    os.close(before)
    world.observer.look()
    assert list(world.verdicts()) == [vm.id]
    vm.move(State.ENDED, "its QEMU is proven gone")
    vm.fencing = "its lock is lost"
    world.observer.look()
    assert list(world.verdicts()) == [vm.id]
    vm.fencing = ""
    world.registry.save(vm)
    world.observer.look()
    assert list(world.verdicts()) == []


def test_a_mount_that_vanishes_from_the_table_is_watched_on_while_a_vm_has_a_file_there(world: World) -> None:
    world.vm("web")
    world.observer.look()
    world.mounts.clear()
    world.statistics.clear()
    world.observer.look()
    assert len(world.verdicts()) == 1
    for vm in world.registry:
        world.registry.remove(vm)
    world.observer.look()
    world.observer.look()
    assert world.observer.mounts == {}


def test_a_mount_in_two_places_keeps_its_name(world: World) -> None:
    world.vm("web")
    world.observer.look()
    world.mounts.append(Mount(2, world.device, "/mnt/again", "nfs4", "10.0.0.1:/vm", "vers=4.1"))
    world.statistics["/mnt/again"] = world.statistics[world.point]
    world.observer.look()
    assert [lock.mount for lock in world.watch.vms["libvirt-web"].info.locks] == [world.point]


def test_an_order_that_fails_keeps_the_others_from_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    broken = Probe(world.point, (None,))  # type: ignore[arg-type]
    world.driver._carry_out_guarded(broken)
    world.driver._carry_out_guarded(Thaw("nobody"))
    assert "please report it as a bug" in caplog.text


@pytest.mark.parametrize(
    ("source", "server"), [("10.0.0.1:/vm", "10.0.0.1"), ("nas:/a:/b", "nas"), ("[fd00::1]:/vm", "fd00::1"), ("x", "")]
)
def test_the_server_of_a_mount(source: str, server: str) -> None:
    assert server_of(source) == server


def test_the_errors_of_one_mount_and_one_operation_are_counted(tmp_path: Path) -> None:
    stats = tmp_path / "mountstats"
    block = "device 10.0.0.1:/a mounted on {} with fstype nfs4 statvers=1.1\n"
    block += "\tREAD: 5 5 0 1 2 3 4 5 {}\n\tSEEK: 9 9 0 1 2 3 4 5 {}\n"
    stats.write_text(
        block.format("/a", 0, 3) + block.format("/ab", 7, 8) + "device x mounted on /proc with fstype proc\n"
    )
    read = functools.partial(all_statistics, str(stats))
    at_a, at_ab = lock_probe.count_of("/a", "SEEK", read), lock_probe.count_of("/ab", "READ", read)
    assert at_a is not None
    assert at_ab is not None
    assert (at_a.errors, at_ab.errors) == (3, 7)
    assert lock_probe.count_of("/nowhere", "SEEK", read) is None


# -- a guest's clock ------------------------------------------------------------------------------------------------


# -- a policy for one VM --------------------------------------------------------------------------------------------


def load(tmp_path: Path, text: str) -> config.Config:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return config.load([str(path)])


def test_a_vms_own_policy(tmp_path: Path) -> None:
    found = load(
        tmp_path, "watch: {on_lost: freeze}\nvms:\n  web: {on_lost: fence}\n  '17':\n    after_fence: restart\n  x:\n"
    )
    assert found.vms == {"web": {"on_lost": "fence"}, "17": {"after_fence": "restart"}}
    assert str(found.origins[("vms", "17", "after_fence")]).endswith(":5")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("vms: 3", "must hold names or uuids of VMs"),
        ("vms: {web: 3}", "vms.web: must hold lines such as"),
        ("vms: {web: {on_lots: fence}}", "vms.web.on_lots: unknown key; did you mean 'on_lost'?"),
        ("vms: {web: {margin: 3s}}", "vms.web.margin: unknown key"),
        ("vms: {web: {on_lost: perhaps}}", "vms.web.on_lost: 'perhaps' is not"),
        ("vms: {web: {on_lost: reclaim}}", "vms.web.on_lost: 'reclaim' is not"),  # told in stories, not offered
        ("watch: {on_lost: reclaim}", "watch.on_lost: 'reclaim' is not"),
        ("vms: {web: {on_lost: [fence]}}", "vms.web.on_lost: takes a value"),
        ("vms: {web: {on_lost: fence}, web: {}}", "is given twice"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(config.BadConfig) as caught:
        load(tmp_path, text)
    assert problem in str(caught.value)


# -- no memory ------------------------------------------------------------------------------------------------------


def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


def test_questions_wait_until_there_is_a_thread_for_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.vm("web")
    with monkeypatch.context() as patched:
        no_threads(patched)
        world.observer.look()
        world.loop.turn()
        assert world.verdicts() == {"libvirt-web": "unknown"}
    while world.verdicts() != {"libvirt-web": "kept"}:
        world.loop.turn()


def test_a_job_waits_until_there_is_a_thread_for_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, done = StorageThreads(world.loop), list[object]()
    with monkeypatch.context() as patched:
        no_threads(patched)
        threads.run(1, "a job", lambda: 7, done.append)
        world.loop.turn()
    while not done:
        world.loop.turn()
    assert done == [7]
