"""Run the daemon: configuration, single instance, socket, signals, what an earlier daemon left."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import fasteners

from vmguard import config as configuration
from vmguard.adapters.linux import atomic_file, journal, oom_and_scheduling, sockets, statefile, systemd
from vmguard.adapters.linux.keeper import keeper
from vmguard.config import last_good
from vmguard.core.watchdog.events import Level, Report
from vmguard.core.words import shell_word
from vmguard.daemon import wiring
from vmguard.daemon.api.hook_prefork import HookPrefork
from vmguard.daemon.api.server import Server
from vmguard.daemon.claim import fdstore_recovery
from vmguard.daemon.runtime.loop import Loop
from vmguard.errors import DaemonError
from vmguard.protocol import readers, wire

log = logging.getLogger("vmguard")

#: starts that need not wait for an interpreter at the same moment
_STANDING_BY = 2


class Daemon:
    """The daemon as a process; ``run`` returns its exit status."""

    def __init__(self, config_paths: Any, verbose: int) -> None:
        self._config_paths = config_paths
        self._verbose = verbose
        self._config, self._config_problems = configuration.load_or_kept(config_paths)
        self._run_dir = self._config.daemon.run_dir
        self._lock_path = os.path.join(self._run_dir, "daemon.lock")
        self._lock = fasteners.InterProcessLock(self._lock_path)
        self._loop = Loop()

    def run(self) -> int:
        self._log_level()
        self._protect()
        try:
            atomic_file.own_folder(self._run_dir)
        except OSError as problem:
            why = f"{self._run_dir} cannot be used: {problem.strerror}"
            raise DaemonError(why, f"ls -ld {shell_word(self._run_dir)}") from problem
        if not self._lock.acquire(blocking=False):
            raise DaemonError(f"another vmguard daemon runs with {self._run_dir}", "systemctl status vmguard")
        try:
            return self._run_alone()
        finally:
            self._lock.release()

    def _run_alone(self) -> int:
        passed = systemd.listen_fds()
        keeper.start(self._lock_path)  # first: as long as nothing here has a descriptor of a share
        parts = wiring.Parts(
            self._loop, self._run_dir, lambda: self._config, config_problems=lambda: self._config_problems
        )
        parts.maintenance.resume()  # first: whatever is found below must know whether anything may be done about it
        self._resume(parts, systemd.unpack({name: fd for name, fd in passed if "-" in name}))
        parts.server.listen(self._listener([fd for name, fd in passed if "-" not in name]))
        self._let_readers_in(parts.server)
        parts.start()
        if parts.settings.wants_host_fence() and parts.hardware_watchdog.missing():
            log.error("host_fence: watchdog is configured, but could not fire: %s", parts.hardware_watchdog.missing())
        self._signals(parts)
        self._keep_or_report(parts.report)
        HookPrefork(self._loop, self._run_dir, _STANDING_BY if self._config.hook.standby else 0).start()
        systemd.notify("READY=1")
        parts.unit_status.start()
        systemd.keep_alive(self._loop.call_in)
        # Only now: the first count reads every process of the host, and must not delay VMs guarded already.
        self._loop.call_in(0.0, parts.unclaimed_qemus.start)
        parts.libvirt_events.start()
        log.info("ready, guarding %d VMs", len(parts.registry))
        self._loop.run()
        systemd.notify("STOPPING=1")
        parts.notices.end()
        log.info(
            "ending; the locks of %d VMs stay with systemd's descriptor store, if there is one", len(parts.registry)
        )
        return 0

    def _resume(self, parts: wiring.Parts, stored: dict[str, int]) -> None:
        """Take up what an earlier daemon guarded: its state files, and the descriptors that systemd kept."""
        parts.registry.load()
        fdstore_recovery.take_in(stored, parts.registry, parts.settings.pieces, parts.settings.timing().run_dirs)
        for vm in parts.registry:
            parts.lifecycle.resume(vm, stored)
        for name, fd in stored.items():
            log.error("systemd kept descriptor %s, whose owner is unknown; it stays open until systemctl stop", name)
            os.set_inheritable(fd, False)

    def _listener(self, passed: list[int]) -> socket.socket:
        if passed:
            return socket.socket(fileno=passed[0])
        return sockets.listen(os.path.join(self._run_dir, wire.SOCKET_NAME), wire.BACKLOG)

    def _let_readers_in(self, server: Server) -> None:
        """Make the socket for readers. Without it, or without their group, root alone may ask."""
        path = readers.socket_path(self._run_dir)
        try:
            listener = sockets.listen(path, readers.BACKLOG, self._config.daemon.read_group)
        except OSError as problem:
            log.warning("nobody but root can ask what is guarded: %s cannot be made: %s", path, problem.strerror)
            return
        server.listen(listener, reads_only=True)

    def _signals(self, parts: wiring.Parts) -> None:
        signal.set_wakeup_fd(self._loop.wake_fd, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._loop.stop())
        signal.signal(signal.SIGHUP, lambda *_: self._loop.call_from_thread(lambda: self._reload(parts)))

    def _reload(self, parts: wiring.Parts) -> None:
        """Read the configuration again; a wrong one is reported and the last good one stays."""
        before = self._config
        self._config, self._config_problems = configuration.load_or_last_good(before, self._config_paths)
        for name in configuration.needs_restart(before, self._config):
            log.warning("%s has changed, but counts only after a restart of the daemon", name)
        self._keep_or_report(parts.report)
        if self._config_problems:
            return
        self._log_level()
        parts.registry.mark_all_changed()  # their policies may be other ones
        log.info("configuration reloaded")

    def _keep_or_report(self, report: Callable[[Report], None]) -> None:
        """Keep a configuration without a mistake for the next start; report each mistake of another one."""
        for problem in self._config_problems:
            text = f"the configuration is not taken, the last good one is in force: {problem}"
            report(Report(Level.ERROR, "config.invalid", text))
        if self._config_problems or self._config_paths is not None:
            return
        try:
            os.makedirs(last_good.DIRECTORY, mode=0o700, exist_ok=True)
            statefile.write_text(last_good.PATH, last_good.text(self._config))
        except OSError as problem:
            log.warning("the configuration is not kept for a start with a wrong one: %s", problem)

    def _protect(self) -> None:
        """Be able to act when the host is out of memory or time."""
        daemon = self._config.daemon
        steps = [
            oom_and_scheduling.open_files,
            *([oom_and_scheduling.lock, oom_and_scheduling.spare] if daemon.protected else []),
        ]
        for step in [*steps, *([oom_and_scheduling.realtime] if daemon.realtime else [])]:
            try:
                step()
            except OSError as problem:
                log.warning("the daemon is less protected than it should be: %s", problem)

    def _log_level(self) -> None:
        level = logging.DEBUG if self._verbose else getattr(logging, self._config.daemon.log_level.upper())
        logging.getLogger("vmguard").setLevel(level)


def main(config_paths: Any, verbose: int = 0) -> int:
    """Run the daemon in the foreground until SIGTERM. Raises VmguardError when it cannot start."""
    journal.setup()
    faulthandler.enable()  # systemd's watchdog ends a daemon that stands still with SIGABRT: the journal says where
    paths = None if config_paths is None else [os.path.abspath(path) for path in config_paths]
    os.chdir("/")  # its programs begin there, and it keeps no share busy
    return Daemon(paths, verbose).run()
