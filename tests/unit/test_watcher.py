"""The watchdog inside the daemon: what it is told, whose orders it carries out, what it does when one of them fails."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.real.guard import Guard, eventually
from vmguard import config
from vmguard.adapters.linux import clock, mounts
from vmguard.adapters.linux.mounts import Mount, NfsStatistics
from vmguard.adapters.storage import lock_probe
from vmguard.core.locks.claim_states import State
from vmguard.core.locks.guard_states import Pin
from vmguard.core.locks.plan import DISK, EXCLUSIVE
from vmguard.core.watchdog.events import Act, Acted, Level, Policy, Probe, Report, Thaw, VmInfo
from vmguard.core.watchdog.states import Phase
from vmguard.core.watchdog.timing import Wishes
from vmguard.daemon.fence.signals import Acts
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.report.history import History, Reporter
from vmguard.daemon.report.notify_command import Notifier, Wanted
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import Workers
from vmguard.daemon.watch import driver
from vmguard.daemon.watch.driver import Watcher, _server
from vmguard.daemon.watch.guest_clocks import Clocks
from vmguard.daemon.watch.lease_store import Leases


class World:
    """A watcher over a made-up NFS mount at a folder of this machine."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.device = folder.stat().st_dev
        self.point = "/srv/vm"
        self.mounts = [Mount(1, self.device, self.point, "nfs4", "10.0.0.1:/vm", "vers=4.1")]
        seen = NfsStatistics(self.point)
        seen.lease = 10.0
        self.statistics = {self.point: seen}
        monkeypatch.setattr(mounts, "mounts", lambda: iter(self.mounts))
        monkeypatch.setattr(mounts, "statistics", lambda: self.statistics)
        self.loop = Loop()
        self.registry = Registry(str(folder / "run"))
        self.reports: list[Report] = []
        self.begin()

    def begin(self) -> None:
        """A daemon's watchdog, as after its start."""
        acts = Acts(self.loop, self.registry)
        leases = Leases(str(self.folder / "run"))
        self.watcher = Watcher(
            self.loop, self.registry, acts, self.reports.append, Wishes(), lambda vm: Policy(), leases
        )

    def vm(self, name: str) -> GuardedVm:
        path = self.folder / f"{name}.raw"
        path.write_bytes(bytes(8192))
        fd = os.open(path, os.O_RDWR)
        file = GuardedFile(str(path), EXCLUSIVE, DISK, "", (self.device, path.stat().st_ino), [(0, 0)])
        file.guard.received(fd)
        vm = GuardedVm("libvirt", name, name, [file], State.RUNNING)
        self.registry.add(vm)
        return vm

    def verdicts(self) -> dict[str, str]:
        return {lock.info.id.vm: str(lock.verdict) for lock in self.watcher.watch.mounts[self.point].locks.values()}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    os.mkdir(tmp_path / "run")
    return World(tmp_path, monkeypatch)


def test_every_lock_on_an_nfs_mount_is_asked_and_found_kept(world: World) -> None:
    for name in ("web", "db"):
        world.vm(name)
    world.watcher.look()
    for _ in range(50):
        world.loop.turn()
        if set(world.verdicts().values()) == {"kept"}:
            break
    assert world.verdicts() == {"libvirt-web": "kept", "libvirt-db": "kept"}


@pytest.mark.parametrize(("age", "phase"), [(1.0, Phase.HEALTHY), (7.0, Phase.LATE), (9.0, Phase.AT_RISK)])
def test_a_daemon_goes_by_the_age_of_the_lease_that_the_one_before_knew(
    world: World, monkeypatch: pytest.MonkeyPatch, age: float, phase: Phase
) -> None:
    world.vm("web")
    world.watcher.look()
    assert world.watcher.watch.mounts[world.point].phase is Phase.LATE  # nothing known: the time of one verdict is left
    world.watcher.watch.mounts[world.point].confirmed = clock.boottime() - age
    world.watcher._keep_leases()
    world.begin()
    world.watcher.look()
    assert world.watcher.watch.mounts[world.point].phase is phase


def test_an_event_brings_the_next_tick_forward_and_never_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now, wanted = 1000.0, 1060.0
    monkeypatch.setattr(clock, "boottime", lambda: now)
    monkeypatch.setattr(world.watcher.watch, "wake_at", lambda: wanted)
    world.watcher._tick()
    assert world.watcher._due == 1001.0  # the boot clock is looked at each second, whatever is due
    for next_wish, due in ((1000.3, 1000.3), (1000.7, 1000.3), (999.0, 1000.01)):
        wanted = next_wish
        world.watcher.feed(Acted(now, "nobody", Act.THAW, True))
        assert world.watcher._due == due
    now, wanted = 1000.02, 1000.5
    world.loop.turn()
    assert world.watcher._due == 1000.5
    now = 1000.4
    world.loop.turn()  # the ticks that were planned later are cancelled
    assert world.watcher._due == 1000.5


def test_an_io_error_of_qemu_is_a_reason_to_ask_its_locks_and_no_verdict(world: World) -> None:
    vm, other = world.vm("web"), world.vm("db")
    world.watcher.look()
    while set(world.verdicts().values()) != {"kept"}:
        world.loop.turn()
    world.watcher.io_error(vm)
    assert world.verdicts() == {vm.id: "unknown", other.id: "kept"}
    while set(world.verdicts().values()) != {"kept"}:
        world.loop.turn()
    world.registry.remove(vm)
    world.watcher.look()
    world.watcher.io_error(vm)


def test_a_vm_that_is_released_and_claimed_anew_between_two_looks_is_a_new_one(world: World) -> None:
    old = world.vm("web")
    world.watcher.look()
    before = world.watcher.watch.vms[old.id]
    world.registry.remove(old)
    world.vm("web")
    world.watcher.look()
    assert world.watcher.watch.vms[old.id] is not before


def told(world: World, vm: GuardedVm) -> VmInfo:
    return world.watcher.watch.vms[vm.id].info


def test_news_of_a_vm_are_told_at_the_next_look(world: World) -> None:
    vm = world.vm("web")
    world.watcher.look()
    assert (told(world, vm).process, told(world, vm).locks[0].pinned) == (True, False)
    vm.files[0].guard.pinned_on(Pin(1, 3), vm.files[0].guard.descriptor, None)
    world.registry.save(vm)
    world.watcher.look()
    assert told(world, vm).locks[0].pinned
    vm.move(State.ENDED, "it is gone")
    world.watcher.look()
    assert not told(world, vm).process


def test_what_changes_without_a_word_is_seen_soon_all_the_same(world: World) -> None:
    vms = [world.vm(f"vm{number}") for number in range(15)]
    world.watcher.look()
    for vm in vms:
        vm.frozen = True
    for _ in range(driver._ALL_IN):
        world.watcher.look()
    assert all(told(world, vm).frozen for vm in vms)


def test_vms_of_which_there_is_no_news_cost_next_to_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        world.vm(f"vm{number}")
    world.watcher.look()
    asked: list[str] = []
    whole = world.watcher._info

    def info(vm: GuardedVm) -> VmInfo:
        asked.append(vm.id)
        return whole(vm)

    monkeypatch.setattr(world.watcher, "_info", info)
    for _ in range(driver._ALL_IN):
        world.watcher.look()
    assert sorted(asked) == sorted(world.registry.ids), "each of them once"


def test_another_lease_time_and_another_name_of_a_mount_are_news_of_all_its_vms(world: World) -> None:
    vm = world.vm("web")
    world.watcher.look()
    world.statistics[world.point].lease = 20.0
    world.watcher.look()
    assert world.watcher.watch.mounts[world.point].timeline.lease == 20.0
    world.statistics["/srv/moved"] = world.statistics.pop(world.point)
    world.mounts[:] = [Mount(2, world.device, "/srv/moved", "nfs4", "10.0.0.1:/vm", "vers=4.1")]
    world.watcher.look()
    assert [lock.mount for lock in told(world, vm).locks] == ["/srv/moved"]


def test_a_lock_that_ended_with_its_qemu_is_not_asked_for_any_more(world: World) -> None:
    """Somebody else may have the disk open for long after it; its lease must not be said to run out meanwhile."""
    vm = world.vm("web")
    before = vm.files[0].guard.pinned_on(Pin(os.getpid(), 3, "qemu"), None, None)
    assert before is not None
    os.close(before)
    world.watcher.look()
    assert list(world.verdicts()) == [vm.id]
    vm.move(State.ENDED, "its QEMU is proven gone")
    vm.fencing = "its lock is lost"
    world.watcher.look()
    assert list(world.verdicts()) == [vm.id]
    vm.fencing = ""
    world.registry.save(vm)
    world.watcher.look()
    assert list(world.verdicts()) == []


def test_a_mount_that_vanishes_from_the_table_is_watched_on_while_a_vm_has_a_file_there(world: World) -> None:
    world.vm("web")
    world.watcher.look()
    world.mounts.clear()
    world.statistics.clear()
    world.watcher.look()
    assert len(world.verdicts()) == 1
    for vm in world.registry:
        world.registry.remove(vm)
    world.watcher.look()
    world.watcher.look()
    assert world.watcher.mounts == {}


def test_a_mount_in_two_places_keeps_its_name(world: World) -> None:
    world.vm("web")
    world.watcher.look()
    world.mounts.append(Mount(2, world.device, "/mnt/again", "nfs4", "10.0.0.1:/vm", "vers=4.1"))
    world.statistics["/mnt/again"] = world.statistics[world.point]
    world.watcher.look()
    assert [lock.mount for lock in world.watcher.watch.vms["libvirt-web"].info.locks] == [world.point]


def test_an_order_that_fails_keeps_the_others_from_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.watcher.fence = lambda vm, why, policy: None
    broken = Probe(world.point, (None,))  # type: ignore[arg-type]
    world.watcher._carry_out_guarded(broken)
    world.watcher._carry_out_guarded(Thaw("nobody"))
    assert "please report it as a bug" in caplog.text


@pytest.mark.parametrize(
    ("source", "server"), [("10.0.0.1:/vm", "10.0.0.1"), ("nas:/a:/b", "nas"), ("[fd00::1]:/vm", "fd00::1"), ("x", "")]
)
def test_the_server_of_a_mount(source: str, server: str) -> None:
    assert _server(source) == server


def test_the_errors_of_one_mount_and_one_operation_are_counted(tmp_path: Path) -> None:
    stats = tmp_path / "mountstats"
    block = "device 10.0.0.1:/a mounted on {} with fstype nfs4 statvers=1.1\n"
    block += "\tREAD: 5 5 0 1 2 3 4 5 {}\n\tSEEK: 9 9 0 1 2 3 4 5 {}\n"
    stats.write_text(
        block.format("/a", 0, 3) + block.format("/ab", 7, 8) + "device x mounted on /proc with fstype proc\n"
    )
    assert lock_probe.server_errors("/a", True, str(stats)) == 3
    assert lock_probe.server_errors("/ab", False, str(stats)) == 7
    assert lock_probe.server_errors("/nowhere", True, str(stats)) is None


# -- a guest's clock ------------------------------------------------------------------------------------------------


@pytest.mark.process
def test_the_clock_of_a_guest_that_stood_still_is_set_where_it_is_wanted(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script = tmp_path / "virsh"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ "$5" != db ]\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    clocks = Clocks(world.loop, world.registry)
    long, short, unwanted, again = (world.vm(name) for name in ("db", "short", "unwanted", "web"))
    now = clock.boottime()
    for vm in (long, unwanted, again):
        monkeypatch.setattr(clock, "boottime", lambda: now - 5)
        clocks.frozen(vm)
        monkeypatch.setattr(clock, "boottime", lambda: now)
        clocks.frozen(vm)  # tried again: it has stood still since the first time
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    clocks.frozen(short)
    caplog.set_level("INFO")
    for vm in (long, short, unwanted, again):
        clocks.thawed(vm, vm is not unwanted)
    deadline = clock.boottime() + 10
    while "VM 'web': its clock is set" not in caplog.text and clock.boottime() < deadline:
        world.loop.turn()
    assert (tmp_path / "asked").read_text().splitlines() == [
        f"-q -c qemu:///system domtime {name} --now" for name in ("db", "web")
    ]
    assert "VM 'db': its clock is late" in caplog.text


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


def test_the_daemon_is_protected_and_says_what_it_cannot_do(tmp_path: Path) -> None:
    watch = {"host_fence": "watchdog", "watchdog_device": str(tmp_path / "none")}
    with Guard(tmp_path, daemon={"realtime": "yes"}, watch=watch) as guard:
        status = Path(f"/proc/{guard.pid}/status").read_text()
        locked = next(line for line in status.splitlines() if line.startswith("VmLck")).split()[1]
        assert int(locked) > 1000
        score = Path(f"/proc/{guard.pid}/oom_score_adj").read_text().strip()
        assert score == "-1000" or "less protected than it should be" in guard.log
        files = next(
            line for line in Path(f"/proc/{guard.pid}/limits").read_text().splitlines() if "open files" in line
        )
        assert files.split()[3] == files.split()[4]  # the soft limit is the hard one
        assert int(files.split()[3]) >= 65536 or "can be open" in guard.log
        assert os.sched_getscheduler(guard.pid) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR
        assert eventually(lambda: "could not fire" in guard.log)


# -- no memory ------------------------------------------------------------------------------------------------------


def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


def test_questions_wait_until_there_is_a_thread_for_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.vm("web")
    with monkeypatch.context() as patched:
        no_threads(patched)
        world.watcher.look()
        world.loop.turn()
        assert world.verdicts() == {"libvirt-web": "unknown"}
    while world.verdicts() != {"libvirt-web": "kept"}:
        world.loop.turn()


def test_a_job_waits_until_there_is_a_thread_for_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    workers, done = Workers(world.loop), list[object]()
    with monkeypatch.context() as patched:
        no_threads(patched)
        workers.run(1, "a job", lambda: 7, done.append)
        world.loop.turn()
    while not done:
        world.loop.turn()
    assert done == [7]


def test_a_report_that_cannot_be_made_keeps_nothing_from_being_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    notifier = Notifier(lambda: Wanted(f"touch {tmp_path}/told", level=Level.INFO))
    history = History(str(tmp_path))
    monkeypatch.setattr(history, "add", fail)
    with monkeypatch.context() as patched:
        no_threads(patched)
        Reporter(history, notifier, lambda vm: {})(Report(Level.INFO, "vm.freeze", "is frozen"))
    Reporter(history, notifier, lambda vm: {})(Report(Level.INFO, "vm.thaw", "goes on"))
    assert eventually(lambda: (tmp_path / "told").exists(), 5)
