"""Puts the daemon together: configuration, single instance, socket, signals, what a daemon before this one left."""

from __future__ import annotations

import logging
import os
import pwd
import signal
import socket
from typing import Any

import fasteners

from vmguard import config as configuration
from vmguard.adapters import hypervisors
from vmguard.adapters.libvirt import host as libvirt_host
from vmguard.adapters.linux import clock, journal, oom_and_scheduling, systemd
from vmguard.adapters.linux.hardware_watchdog import HostFence
from vmguard.core import LIBVIRT
from vmguard.core.locks.claim_states import State
from vmguard.core.locks.ranges import FOOTHOLD, LIBVIRT_WINDOW, QEMU_WINDOW, VIRTLOCKD_WINDOW, Range, held
from vmguard.core.watchdog.events import HostFence as OnUnproven
from vmguard.core.watchdog.events import Policy
from vmguard.core.watchdog.timing import Wishes
from vmguard.daemon import wiring
from vmguard.daemon.api.hook_prefork import Standby
from vmguard.daemon.api.server import Service
from vmguard.daemon.api.watchdog_status import Oversight
from vmguard.daemon.claim import fdstore_recovery
from vmguard.daemon.claim.lifecycle import Keeper, Timing
from vmguard.daemon.fence.fencer import Fencer, Surroundings
from vmguard.daemon.fence.signals import Acts
from vmguard.daemon.owner_records.mark_released import Records, RecordSettings, fields
from vmguard.daemon.pin.pinner import Pinner
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.report.history import History, Reporter
from vmguard.daemon.report.notify_command import Notifier, Wanted
from vmguard.daemon.runtime.command_lines import CommandLines
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import Workers
from vmguard.daemon.watch.driver import Watcher
from vmguard.daemon.watch.lease_store import Leases
from vmguard.daemon.watch.maintenance_mode import Arming
from vmguard.errors import DaemonError
from vmguard.protocol import wire

log = logging.getLogger("vmguard")

#: seconds between two slow rounds of the pinner
_PIN_INTERVAL = 1.0
#: starts that need not wait for an interpreter at the same moment
_STANDING_BY = 2


class Daemon:
    """The whole of it; ``run`` returns the exit status."""

    def __init__(self, config_paths: Any, verbose: int) -> None:
        self._config_paths = config_paths
        self._verbose = verbose
        self.config = configuration.load(config_paths)
        self._run_dir = self.config.daemon.run_dir
        self._lock_path = os.path.join(self._run_dir, "daemon.lock")
        self._lock = fasteners.InterProcessLock(self._lock_path)
        self.loop = Loop()

    def run(self) -> int:
        self._log_level()
        self._protect()
        os.makedirs(self._run_dir, mode=0o700, exist_ok=True)
        if not self._lock.acquire(blocking=False):
            raise DaemonError(f"another vmguard daemon runs with {self._run_dir}", "systemctl status vmguard")
        try:
            return self._run_alone()
        finally:
            self._lock.release()

    def _run_alone(self) -> int:
        passed = systemd.listen_fds()
        self.registry = Registry(self._run_dir)
        self.records = Records(self.loop, self._record_settings())
        workers = Workers(self.loop)
        mark = self.records.mark_released
        pinner = Pinner(self.loop, workers, self.registry, mark, self._pieces(LIBVIRT), _PIN_INTERVAL)
        pinner.pieces_of = self._pieces
        command_lines = CommandLines(self.loop)
        self.keeper = Keeper(self.loop, workers, self.registry, pinner, self._timing(), mark, command_lines)
        self._resume({name: fd for name, fd in passed if "-" in name})
        watcher, arming = self._watchdog()
        service = Service(
            self.loop, self.registry, self.keeper, self._settings, Oversight(watcher, arming, self.fencer)
        )
        listener = self._listener([fd for name, fd in passed if "-" not in name])
        service.listen(listener)
        parts = (self.loop, self.registry, self.keeper, pinner, workers, command_lines, self.records, service)
        wiring.furnish(*parts, lambda: self.config, watcher.io_error)
        watcher.shield = pinner.shield
        pinner.start()
        arming.resume()
        watcher.start()
        self.fencer.resume()
        self._signals()
        Standby(self.loop, self._run_dir, _STANDING_BY if self.config.hook.standby else 0).start()
        systemd.notify("READY=1\nSTATUS=guarding")
        systemd.keep_alive(self.loop.call_in)
        log.info("ready, guarding %d VMs", len(self.registry))
        self.loop.run()
        systemd.notify("STOPPING=1")
        systemd.linger(self._lock_path, self._unpinned())
        log.info(
            "ending; the locks of %d VMs stay with systemd's descriptor store, if there is one", len(self.registry)
        )
        return 0

    def _watchdog(self) -> tuple[Watcher, Arming]:
        notifier = Notifier(self._notify)
        report = Reporter(History(self._run_dir), notifier, self._about)
        acts = Acts(self.loop, self.registry)
        leases = Leases(self._run_dir)
        watcher = Watcher(self.loop, self.registry, acts, report, self._wishes(), self._policy, leases)
        around = Surroundings(
            report=report,
            others=watcher.others,
            why_no_restart=watcher.watch.why_no_restart,
            gone=watcher.gone,
            host=HostFence(self.config.watch.watchdog_device),
            run_dirs=lambda: self.keeper.timing.run_dirs,
        )
        self.fencer = Fencer(self.loop, self.registry, acts, os.path.join(self._run_dir, "fences"), around)
        watcher.fence = self.fencer.begin
        wanted = [self.config.watch.host_fence, *(entry.get("host_fence") for entry in self.config.vms.values())]
        if OnUnproven.WATCHDOG in wanted and around.host.missing():
            log.error("host_fence: watchdog is configured, but could not fire: %s", around.host.missing())
        return watcher, Arming(self._run_dir, watcher.feed)

    def _about(self, vm_id: str) -> dict[str, str]:
        """What a report about a VM says besides its id."""
        vm = self.registry.get(vm_id)
        return {"name": vm.name, "uuid": vm.uuid} if vm is not None else {}

    def _unpinned(self) -> list[int]:
        """Our descriptors of files that no living QEMU has open."""
        waiting = [vm for vm in self.registry if vm.state is not State.RUNNING]
        return [file.fd for vm in waiting for file in vm.files if file.fd >= 0]

    def _resume(self, stored: dict[str, int]) -> None:
        self.registry.load()
        fdstore_recovery.take_in(stored, self.registry, self._pieces, self.keeper.timing.run_dirs)
        for vm in self.registry:
            self.keeper.resume(vm, stored)
        for name, fd in stored.items():
            log.error(
                "systemd kept descriptor %s, and nobody knows whose it is; it stays open until systemctl stop", name
            )
            os.set_inheritable(fd, False)

    def _listener(self, passed: list[int]) -> socket.socket:
        if passed:
            return socket.socket(fileno=passed[0])
        path = os.path.join(self._run_dir, wire.SOCKET_NAME)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        if os.path.exists(path):
            os.unlink(path)  # we are the only daemon (daemon.lock), so it belonged to one that is gone
        before = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.listen(128)
        return listener

    def _signals(self) -> None:
        signal.set_wakeup_fd(self.loop.wake_fd, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.loop.stop())
        signal.signal(signal.SIGHUP, lambda *_: self.loop.call_from_thread(self.reload))

    def reload(self) -> None:
        """Read the configuration again; a wrong one is reported and the last good one stays."""
        before = self.config
        self.config, problems = configuration.load_or_last_good(before, self._config_paths)
        for problem in problems:
            log.error("configuration not reloaded, the last good one stays in force: %s", problem)
        for name in configuration.needs_restart(before, self.config):
            log.warning("%s has changed, but counts only after a restart of the daemon", name)
        if problems:
            return
        self._log_level()
        self.keeper.timing = self._timing()
        self.records.settings = self._record_settings()
        for vm in self.registry:
            vm.news = True  # its policy may be another one
        log.info("configuration reloaded")

    def _protect(self) -> None:
        """Be able to act when the host is out of memory or time."""
        steps = [
            oom_and_scheduling.open_files,
            *([oom_and_scheduling.lock, oom_and_scheduling.spare] if self.config.daemon.protected else []),
        ]
        for step in [*steps, *([oom_and_scheduling.realtime] if self.config.daemon.realtime else [])]:
            try:
                step()
            except OSError as problem:
                log.warning("the daemon is less protected than it should be: %s", problem)

    def _log_level(self) -> None:
        level = logging.DEBUG if self._verbose else getattr(logging, self.config.daemon.log_level.upper())
        logging.getLogger("vmguard").setLevel(level)

    def _timing(self) -> Timing:
        daemon = self.config.daemon
        run_dirs = (self.config.libvirt.run_dir, self.config.proxmox.run_dir)
        return Timing(daemon.start_deadline, daemon.poll_interval, *run_dirs)

    def _record_settings(self) -> RecordSettings:
        record = self.config.owner_record
        return RecordSettings(record.directory if record.enabled else "", record.timeout, self.config.hosts.name)

    def _wishes(self) -> Wishes:
        watch = self.config.watch
        return Wishes(margin=watch.margin or None, probe=watch.probe or None, slow_round=watch.slow_round)

    def _policy(self, vm: GuardedVm) -> Policy:
        """What the section watch says, as far as this VM's own entry in vms says nothing else."""
        watch = self.config.watch
        own = {**self.config.vms.get(vm.name, {}), **self.config.vms.get(vm.uuid, {})}
        return Policy(
            on_at_risk=own.get("on_at_risk", watch.on_at_risk),
            on_lost=own.get("on_lost", watch.on_lost),
            after_fence=own.get("after_fence", watch.after_fence),
            host_fence=own.get("host_fence", watch.host_fence),
            log_only=own.get("log_only", watch.log_only),
            set_clock=own.get("set_clock", watch.set_clock),
        )

    def _notify(self) -> Wanted:
        notify = self.config.notify
        return Wanted(notify.command, notify.timeout, notify.level)

    def _settings(self, hypervisor: str) -> dict[str, Any]:
        """What a claim needs to know; JSON, see the protocol's ``claim``. A wait of None: by the mount's lease."""
        config = self.config
        known = hypervisors.by_name(hypervisor)
        return {
            "now": clock.wall(),
            "wait": (config.proxmox.lock_wait or None) if known.hook_may_wait else config.hook.wait,
            "mount_wait": config.proxmox.mount_wait,
            "timeout": config.hook.timeout,
            "windows": [list(window) for window in self._windows(hypervisor)],
            "policy": {
                "block": config.policy.block_devices,
                "network": config.policy.network_disks,
                "unsafe_mounts": config.policy.unsafe_mounts,
                "local": config.policy.local_filesystems,
                "missing": "allow",
                "directory": "allow",
            },
            "record": {"folder": self.records.settings.folder, "timeout": config.owner_record.timeout},
            "identity": fields(self.records.settings),
            "as_users": [] if known.runs_qemu_as_root else _user(config.libvirt.qemu_user),
        }

    def _windows(self, hypervisor: str) -> list[Range]:
        windows, chosen = self.config.windows, []
        auto = hypervisors.by_name(hypervisor).takes_image_locks  # else nobody locks any byte of an image
        if windows.virtlockd == "on" or (windows.virtlockd == "auto" and auto and libvirt_host.uses_virtlockd()):
            chosen.append(VIRTLOCKD_WINDOW)
        if windows.libvirt == "on" or (windows.libvirt == "auto" and auto):
            chosen.append(LIBVIRT_WINDOW)
        if windows.qemu == "on" or (windows.qemu == "auto" and auto):
            chosen.append(QEMU_WINDOW)
        else:
            chosen.append(FOOTHOLD)
        return chosen

    def _pieces(self, hypervisor: str) -> list[Range]:
        return held(self._windows(hypervisor))


def _user(name: str) -> list[list[int]]:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return []
    return [[entry.pw_uid, entry.pw_gid]]


def main(config_paths: Any, verbose: int = 0) -> int:
    """Run the daemon in the foreground until SIGTERM. Raises VmguardError when it cannot start."""
    journal.setup()
    return Daemon(config_paths, verbose).run()
