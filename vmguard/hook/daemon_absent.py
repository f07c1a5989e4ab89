"""What a start does when the daemon does not answer: refuse, unless the admin chose otherwise in the configuration.

Imported only then, so that it may load the whole configuration.
"""

from __future__ import annotations

import site
import syslog

from vmguard.errors import DaemonError


def judge(name: str, problem: DaemonError) -> None:
    """Raise the problem, or let the start pass unguarded with a warning in the system's log."""
    site.main()  # hooks run with -S; the configuration needs the yaml package
    from vmguard import config

    settings = config.load()
    if settings.hook.daemon_absent == "allow":
        syslog.openlog("vmguard", syslog.LOG_PID)
        syslog.syslog(syslog.LOG_CRIT, f"VM {name!r} starts UNGUARDED (hook.daemon_absent is allow): {problem.message}")
        return
    raise DaemonError(
        f"VM {name!r} is not started, because its disks cannot be guarded: {problem.message}",
        problem.hint or "systemctl start vmguard",
    )
