"""What `systemctl status vmguard` shows: one line that follows the state of the VMs (STATUS= of sd_notify(3)).

Renewed shortly after each report, and now and then; sent only when it says something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from vmguard.adapters.linux import systemd
from vmguard.core.reports.unit_line import VmLine, unit_line
from vmguard.core.watchdog.machine import Watch
from vmguard.core.watchdog.stance import Stance
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.report import acknowledged
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.watch.maintenance_mode import MaintenanceMode

#: between two looks without a report: a VM that started or ended is not reported
_INTERVAL_S = 30.0
#: after a report, so that of a hundred VMs that are frozen at once not each is a message of its own
_SOON_S = 0.3


class UnitStatus:
    """The line, and what it was made from; for the loop's thread."""

    def __init__(
        self,
        loop: Loop,
        run_dir: str,
        vms: Callable[[], Iterable[GuardedVm]],
        watch: Watch,
        maintenance: Callable[[], MaintenanceMode],
        config_problems: Callable[[], Sequence[object]],
        notify: Callable[[str], object] = systemd.notify,
    ) -> None:
        self._loop = loop
        self._run_dir = run_dir
        self._vms = vms
        self._watch = watch
        self._maintenance = maintenance
        self._config_problems = config_problems
        self._notify = notify
        self._sent = ""
        self._is_due = False

    def start(self) -> None:
        """Send the line, and keep it up to date."""
        self._send()
        self._loop.call_in(_INTERVAL_S, self.start)

    def renew(self, *_: object) -> None:
        """Send the line anew soon, because something has happened."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_in(_SOON_S, self._send)

    def _send(self) -> None:
        self._is_due = False
        line = self.line()
        if line != self._sent:
            self._sent = line
            self._notify(f"STATUS={line}")

    def line(self) -> str:
        """Return the line as of now."""
        mode = self._maintenance().as_json()
        return unit_line(
            [self._seen(vm) for vm in self._vms()],
            acknowledged.fenced_lately(self._run_dir),
            str(mode["reason"]) if mode else None,
            bool(self._config_problems()),
        )

    def _seen(self, vm: GuardedVm) -> VmLine:
        known = self._watch.vms.get(vm.id)
        real = known.real if known is not None else Stance.RUNNING
        return VmLine(vm.name, str(vm.state), real is Stance.FROZEN, real is Stance.FENCING)
