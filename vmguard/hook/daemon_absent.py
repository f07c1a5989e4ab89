"""What a start does when the daemon does not answer: it is refused, unless the admin chose otherwise.

Imported only in that case, so that it may load the whole configuration.
"""

from __future__ import annotations

import site
import syslog

from vmguard.core.words import printable, vm_title
from vmguard.errors import DaemonError, DaemonForbidden


def refuse_unless_allowed(name: str, problem: DaemonError) -> None:
    """Raise DaemonError, or log to syslog that the VM starts unguarded if ``hook.daemon_absent`` allows it."""
    site.main()  # hooks run with -S; the configuration needs the yaml package
    from vmguard import config

    settings, _ = config.load_or_kept()
    if settings.hook.daemon_absent == "allow" and not isinstance(problem, DaemonForbidden):  # it may well be there
        syslog.openlog("vmguard", syslog.LOG_PID)
        told = f"{vm_title(name)} starts UNGUARDED (hook.daemon_absent is allow): {problem.message}"
        syslog.syslog(syslog.LOG_CRIT, printable(told))
        return
    raise DaemonError(
        f"{vm_title(name)} is not started, because its disks cannot be guarded: {problem.message}",
        problem.hint or "systemctl start vmguard",
    )
