"""Build the daemon's parts: each once, with all that it depends on given to its constructor.

Some parts know each other both ways: the pinner tells the watchdog of a rival, and the watchdog has the pinner try
again. There the part that is made first gets a function that looks the other one up when it is called, which is never
before all of them are made.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from vmguard.adapters.linux.hardware_watchdog import HostFence
from vmguard.config.settings import Config
from vmguard.core.locks.claim_states import State
from vmguard.core.watchdog.machine import Watch
from vmguard.daemon.adopt.adopter import Adopter
from vmguard.daemon.adopt.unclaimed_qemu import Census
from vmguard.daemon.api.claims import ClaimRequests
from vmguard.daemon.api.commands import Commands
from vmguard.daemon.api.questions import Questions
from vmguard.daemon.api.server import Server
from vmguard.daemon.api.watchdog_status import WatchdogStatus
from vmguard.daemon.claim.lifecycle import Keeper
from vmguard.daemon.claim.migration_target import Incoming
from vmguard.daemon.fence.conflicts import Conflicts
from vmguard.daemon.fence.fencer import Fencer, Surroundings
from vmguard.daemon.fence.signals import Signals
from vmguard.daemon.owner_records.mark_released import Records
from vmguard.daemon.owner_records.write_late import Claims
from vmguard.daemon.pin.pinner import Pinner
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.report.history import History, Reporter
from vmguard.daemon.report.notify_command import Notifier
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import Workers
from vmguard.daemon.scan.libvirt_events import Hints
from vmguard.daemon.settings import Settings
from vmguard.daemon.watch.driver import Driver
from vmguard.daemon.watch.effects import Effects
from vmguard.daemon.watch.guest_clocks import Clocks
from vmguard.daemon.watch.lease_store import Leases
from vmguard.daemon.watch.maintenance_mode import Arming
from vmguard.daemon.watch.observer import Observer
from vmguard.daemon.watch.probes import Probes

#: between two slow rounds of the pinner
_PIN_INTERVAL_S = 1.0


@dataclass(frozen=True)
class Parts:
    """All parts of a daemon, made and not yet started."""

    registry: Registry
    keeper: Keeper
    pinner: Pinner
    signals: Signals
    fencer: Fencer
    watch: Watch
    driver: Driver
    observer: Observer
    arming: Arming
    incoming: Incoming
    census: Census
    hints: Hints
    server: Server
    host_fence: HostFence

    def start(self) -> None:
        """Start what runs by itself; the registry holds by now what an earlier daemon guarded."""
        self.incoming.resume()
        self.pinner.start()
        self.signals.resume()
        self.observer.start()
        self.driver.start()
        self.fencer.resume()


def build(loop: Loop, run_dir: str, config: Callable[[], Config]) -> Parts:
    """Build all parts of a daemon. Raises OSError when ``run_dir`` cannot be used."""
    settings = Settings(config)
    registry = Registry(run_dir)
    workers = Workers(loop)
    records = Records(loop, settings.record)
    written_late = Claims(loop, registry, records)
    report = Reporter(History(run_dir), Notifier(settings.notify), registry.about)

    def on_pinned(vm: GuardedVm, file: GuardedFile) -> None:
        written_late.pinned(vm, file)
        incoming.pinned(vm, file)
        if vm.state is State.CONFLICT:
            observer.tell(vm)

    pinner = Pinner(
        loop,
        workers,
        registry,
        records.mark_released,
        settings.pieces,
        _PIN_INTERVAL_S,
        on_conflict=lambda vm, file, rival: conflicts.meet(vm, file, rival),
        on_pinned=on_pinned,
    )
    keeper = Keeper(
        loop,
        workers,
        registry,
        pinner,
        settings.timing,
        records.mark_released,
        on_running=lambda vm: incoming.follow(vm),
    )
    signals = Signals(loop, registry)

    watch = Watch(settings.wishes())
    driver = Driver(loop, watch, carry_out=lambda effect: effects.carry_out(effect))
    observer = Observer(loop, registry, watch, driver.feed, settings.policy, Leases(run_dir))
    conflicts = Conflicts(registry, settings.policy, observer.tell, driver.feed)
    host_fence = HostFence(config().watch.watchdog_device)
    surroundings = Surroundings(
        report=report,
        others=watch.others,
        why_no_restart=watch.why_no_restart,
        copy=pinner.shield.take,
        gone=observer.gone,
        host=host_fence,
        run_dirs=lambda: keeper.timing.run_dirs,
    )
    fencer = Fencer(loop, registry, signals, os.path.join(run_dir, "fences"), surroundings)
    probes = Probes(loop, registry, watch, driver.feed, observer.mount_of, pinner.shield)
    clocks = Clocks(loop, registry)
    effects = Effects(
        registry, driver.feed, report, settings.policy, probes, signals, clocks, fencer, conflicts, pinner
    )
    arming = Arming(run_dir, driver.feed)

    incoming = Incoming(
        loop, workers, registry, pinner, conflicts, lambda: config().migration, observer.tell, driver.feed
    )
    census = Census(loop, registry, keeper, pinner, lambda: config().unguarded)
    adopter = Adopter(loop, registry, census, pinner, driver.feed, settings.locks_local_files)
    claims = ClaimRequests(loop, registry, keeper, settings.claim, incoming)
    questions = Questions(registry, WatchdogStatus(watch, observer, arming, fencer))
    commands = Commands(arming, adopter.adopt)
    server = Server(loop, keeper, {**claims.handlers, **questions.handlers, **commands.handlers})
    hints = Hints(loop, registry, pinner.attend, observer.io_error, settings.listens_to_libvirt)
    return Parts(
        registry=registry,
        keeper=keeper,
        pinner=pinner,
        signals=signals,
        fencer=fencer,
        watch=watch,
        driver=driver,
        observer=observer,
        arming=arming,
        incoming=incoming,
        census=census,
        hints=hints,
        server=server,
        host_fence=host_fence,
    )
