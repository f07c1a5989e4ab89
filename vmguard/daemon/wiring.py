"""Build the daemon's parts: each once, when it is first asked for; its constructor gets all that it depends on.

Some parts know each other both ways: the pinner tells the watchdog of a rival, and the watchdog has the pinner try
again. There one of the two gets a function of this module's, which looks the other one up when it is called.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from functools import cached_property

from vmguard.adapters import hypervisors
from vmguard.adapters.linux import first_use
from vmguard.adapters.linux.hardware_watchdog import HardwareWatchdog
from vmguard.adapters.linux.mount_table import MountTable
from vmguard.config.settings import Config, Unguarded
from vmguard.core.locks.claim_states import State
from vmguard.core.watchdog.events import Level, Report
from vmguard.core.watchdog.machine import Watch
from vmguard.daemon.adopt.adopter import Adopter
from vmguard.daemon.adopt.few_warnings import FewWarnings
from vmguard.daemon.adopt.unclaimed_qemu import UnclaimedQemus
from vmguard.daemon.api.claims import ClaimRequests
from vmguard.daemon.api.commands import Commands
from vmguard.daemon.api.host_view import HostView
from vmguard.daemon.api.questions import Questions
from vmguard.daemon.api.refused_starts import RefusedStarts
from vmguard.daemon.api.server import Server
from vmguard.daemon.api.unit_status import UnitStatus
from vmguard.daemon.api.watchdog_status import WatchdogStatus
from vmguard.daemon.claim.lifecycle import ClaimLifecycle
from vmguard.daemon.claim.migration_target import MigrationTarget
from vmguard.daemon.fence.conflicts import Conflicts
from vmguard.daemon.fence.fencer import Fencer, FencerDeps
from vmguard.daemon.fence.signals import Signals
from vmguard.daemon.owner_records.mark_released import ReleaseMarks
from vmguard.daemon.owner_records.write_late import LateRecords
from vmguard.daemon.pin.after_reboot import LocksAfterReboot
from vmguard.daemon.pin.backup_files import BackupFiles
from vmguard.daemon.pin.pinner import Pinner
from vmguard.daemon.pin.relock import Relocker
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.release.releaser import Releaser
from vmguard.daemon.report.history import History, Reporter
from vmguard.daemon.report.notices import Notices
from vmguard.daemon.report.notify_command import Notifier
from vmguard.daemon.runtime.command_lines import CommandLines
from vmguard.daemon.runtime.descriptors import Descriptors
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import StorageThreads
from vmguard.daemon.scan.libvirt_events import LibvirtEvents
from vmguard.daemon.scan.process_fds import MountTables, ProcessFds
from vmguard.daemon.scan.replaced_disks import ReplacedDisks
from vmguard.daemon.settings import Settings
from vmguard.daemon.watch.driver import Driver
from vmguard.daemon.watch.effects import Effects
from vmguard.daemon.watch.guest_clocks import GuestClocks
from vmguard.daemon.watch.lease_store import LeaseStore
from vmguard.daemon.watch.maintenance_mode import MaintenanceMode
from vmguard.daemon.watch.observer import Observer
from vmguard.daemon.watch.probes import Probes
from vmguard.daemon.watch.server_answers import ServerAnswers

#: shortest interval of the periodic scan
_PIN_INTERVAL_S = 1.0


class Parts:
    """All parts of a daemon, made and not yet started."""

    def __init__(
        self,
        loop: Loop,
        run_dir: str,
        config: Callable[[], Config],
        pin_interval_s: float = _PIN_INTERVAL_S,
        table: MountTable | None = None,
        tables: MountTables | None = None,
        fds_of: Callable[[int], ProcessFds] = ProcessFds,
        command_lines: CommandLines | None = None,
        config_problems: Callable[[], Sequence[object]] = tuple,
    ) -> None:
        """``table``: the mounts that the watchdog sees; this host's if None. Other parts may be replaced the same way:
        ``tables`` and ``fds_of`` by which the pinner scans processes, and ``command_lines``. ``config_problems``: why
        the last good configuration is in force; empty when it is the admin's files.

        Raises OSError when ``run_dir`` cannot be used.
        """
        self.loop = loop
        self._run_dir = run_dir
        self._config = config
        self._pin_interval_s = pin_interval_s
        self._table = table or MountTable()
        self._tables = tables or MountTables(loop.now)
        self._fds_of = fds_of
        self._config_problems = config_problems
        self.server_answers = ServerAnswers(loop, run_dir, config)
        self.settings = Settings(config, self.server_answers)
        self.registry = Registry(run_dir)
        self.storage_threads = StorageThreads(loop)
        self.command_lines = command_lines or CommandLines(loop)
        self.release_marks = ReleaseMarks(loop, self.settings.record)
        self.watch = Watch(self.settings.wishes())
        self.unit_status = UnitStatus(loop, lambda: self.host_view.state())
        notifier = Notifier(self.settings.notify)
        self.notices = Notices(run_dir, self.settings.notices, self._report_from_thread)
        self.report = Reporter(
            History(run_dir), notifier, self.registry.about, self.unit_status.renew, self.notices.tell
        )
        self.signals = Signals(loop, self.registry)
        self.descriptors = Descriptors(loop, self.report)

    def start(self) -> None:
        """Start what runs by itself; the registry holds by now what an earlier daemon guarded."""
        self.migration_target.resume()
        self.pinner.start()
        self.signals.resume()
        self.observer.start()
        self.replaced_disks.start()
        self.driver.start()
        self.fencer.resume()
        self.descriptors.start()
        self.notices.start()
        self.server_answers.start()

    def _report_from_thread(self, report: Report) -> None:
        self.loop.call_from_thread(lambda: self.report(report))

    # -- claims and pins --------------------------------------------------------------------------------------------

    @cached_property
    def pinner(self) -> Pinner:
        return Pinner(
            self.loop,
            self.storage_threads,
            self.registry,
            self.release_marks.mark_released,
            self.settings.pieces,
            self._pin_interval_s,
            on_conflict=lambda vm, file, rival: self.conflicts.meet(vm, file, rival),
            on_pinned=self._pinned,
            tables=self._tables,
            fds_of=self._fds_of,
            backup_files=BackupFiles(self._backup_files_of),
            trusted_folders=lambda: self._config().storage.trusted_folders,
        )

    def _backup_files_of(self, vm: GuardedVm) -> frozenset[str]:
        return hypervisors.by_name(vm.hypervisor).backup_files(self.lifecycle.timing.run_dirs, vm.name, vm.uuid)

    def _pinned(self, vm: GuardedVm, file: GuardedFile) -> None:
        self.late_records.pinned(vm, file)
        self.migration_target.pinned(vm, file)
        if vm.state is State.CONFLICT:
            self.observer.tell(vm)

    @cached_property
    def late_records(self) -> LateRecords:
        return LateRecords(self.loop, self.registry, self.release_marks)

    @cached_property
    def releaser(self) -> Releaser:
        return Releaser(
            self.loop,
            self.storage_threads,
            self.registry,
            self.pinner,
            self.release_marks.mark_released,
            self.settings.qemu_users,
        )

    @cached_property
    def lifecycle(self) -> ClaimLifecycle:
        return ClaimLifecycle(
            self.loop,
            self.registry,
            self.pinner,
            self.releaser,
            self.settings.timing,
            self.release_marks.mark_released,
            self.command_lines,
            on_running=lambda vm: self.migration_target.follow(vm),
            explain_released=self.release_marks.explain,
            on_held=lambda vm: self.observer.tell(vm),
            report=self.report,
        )

    @cached_property
    def migration_target(self) -> MigrationTarget:
        return MigrationTarget(
            self.loop,
            self.storage_threads,
            self.registry,
            self.pinner,
            self.conflicts,
            self.command_lines,
            lambda: self._config().migration,
            self.observer.tell,
            self.driver.feed,
        )

    @cached_property
    def unclaimed_qemus(self) -> UnclaimedQemus:
        return UnclaimedQemus(
            self.loop,
            self.registry,
            self.lifecycle,
            self.pinner,
            self.command_lines,
            self._unguarded,
            self.settings.qemu_users,
            lambda: not self.descriptors.scarce,
            FewWarnings(self.loop.now, lambda code, text: self.report(Report(Level.WARNING, code, text))),
        )

    def _unguarded(self) -> Unguarded:
        chosen = self._config().unguarded
        return dataclasses.replace(chosen, take_up=False) if first_use.is_awaited(self._run_dir) else chosen

    @cached_property
    def replaced_disks(self) -> ReplacedDisks:
        return ReplacedDisks(
            self.loop, self.storage_threads, self.registry, lambda: self._config().watch.slow_round, self.report
        )

    @cached_property
    def libvirt_events(self) -> LibvirtEvents:
        events = self.settings.listens_to_libvirt
        return LibvirtEvents(self.loop, self.registry, self.pinner.attend, self.observer.io_error, events)

    # -- the watchdog -----------------------------------------------------------------------------------------------

    @cached_property
    def driver(self) -> Driver:
        return Driver(self.loop, self.watch, carry_out=lambda effect: self.effects.carry_out(effect))

    @cached_property
    def observer(self) -> Observer:
        lease_store = LeaseStore(self._run_dir, self.loop.now)
        policy = self.settings.policy
        after_reboot = LocksAfterReboot(self.loop, self.storage_threads, self.registry)
        feed, told = self.driver.feed, after_reboot.plan
        return Observer(self.loop, self.registry, self.watch, feed, policy, lease_store, self._table, told)

    @cached_property
    def effects(self) -> Effects:
        return Effects(
            self.registry,
            self.driver.feed,
            self.report,
            self.settings.policy,
            self.probes,
            self.signals,
            GuestClocks(self.loop, self.registry),
            self.fencer,
            self.conflicts,
            self.pinner,
            Relocker(self.loop, self.storage_threads, self.registry),
            self.loop.now,
        )

    @cached_property
    def probes(self) -> Probes:
        mount_of, fd_copies = self.observer.mount_of, self.pinner.fd_copies
        return Probes(self.loop, self.registry, self.watch, self.driver.feed, mount_of, fd_copies, self._record_folder)

    def _record_folder(self) -> str:
        return self.release_marks.settings.folder

    @cached_property
    def conflicts(self) -> Conflicts:
        return Conflicts(self.registry, self.settings.policy, self.observer.tell, self.driver.feed, self.loop.now)

    @cached_property
    def hardware_watchdog(self) -> HardwareWatchdog:
        return HardwareWatchdog(self._config().watch.watchdog_device)

    @cached_property
    def fencer(self) -> Fencer:
        deps = FencerDeps(
            report=self.report,
            others=self.watch.others,
            why_no_restart=self.watch.why_no_restart,
            copy=self.pinner.fd_copies.take,
            gone=self.observer.gone,
            host=self.hardware_watchdog,
            run_dirs=lambda: self.lifecycle.timing.run_dirs,
        )
        return Fencer(self.loop, self.registry, self.signals, os.path.join(self._run_dir, "fences"), deps)

    @cached_property
    def maintenance(self) -> MaintenanceMode:
        return MaintenanceMode(self._run_dir, self.driver.feed, self.loop.now)

    # -- what it says -----------------------------------------------------------------------------------------------

    @cached_property
    def watchdog_status(self) -> WatchdogStatus:
        return WatchdogStatus(
            self.watch, self.observer, self.maintenance, self.fencer, self.loop.now, self._config_problems
        )

    @cached_property
    def host_view(self) -> HostView:
        return HostView(
            self._run_dir,
            lambda: self.registry,
            self.watch,
            self.watchdog_status,
            self.maintenance,
            self.descriptors,
            self._config_problems,
            self.notices,
        )

    # -- the socket -------------------------------------------------------------------------------------------------

    @cached_property
    def server(self) -> Server:
        adopter = Adopter(
            self.loop,
            self.registry,
            self.unclaimed_qemus,
            self.pinner,
            self.driver.feed,
            self.settings.locks_local_files,
        )
        claims = ClaimRequests(self.loop, self.registry, self.lifecycle, self.settings.claim, self.migration_target)
        refused = RefusedStarts(self.report)
        questions = Questions(self._run_dir, self.registry, self.watchdog_status, self.descriptors, self.notices)
        commands = Commands(self.maintenance, adopter.adopt)
        handlers = {**claims.handlers, **refused.handlers, **questions.handlers, **commands.handlers}
        return Server(self.loop, self.lifecycle, handlers, self.descriptors, self.storage_threads)
