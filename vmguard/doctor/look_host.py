"""Looks at this host: kernel, clock, identity, watchdog device. Nothing here touches a share."""

from __future__ import annotations

import ctypes
import datetime
import os

from vmguard.adapters.linux import clock, host_identity
from vmguard.adapters.linux.hardware_watchdog import HardwareWatchdog
from vmguard.adapters.linux.libc import libc
from vmguard.adapters.linux.nfs_server import NfsServer
from vmguard.adapters.storage import nfs_client_id
from vmguard.config import Config
from vmguard.doctor.facts import HostFacts, IdentityFacts

_RECOVER = "/sys/module/nfs/parameters/recover_lost_locks"
#: struct timex (adjtimex(2), linux/timex.h): ``status`` is an int after ``modes`` and four longs
_TIMEX_BYTES = 208
_STATUS_OFFSET = 40
_STA_UNSYNC = 0x0040
_TIME_ERROR = 5


def look(config: Config) -> HostFacts:
    """Look at this host."""
    uname = os.uname()
    server = NfsServer()
    return HostFacts(
        identity=look_identity(config.hosts.name),
        uptime=clock.boottime(),
        release=uname.release,
        kernel=uname.version,
        clock_synchronised=clock_synchronised(),
        recover_lost_locks=_flag(_RECOVER),
        watchdog=_watchdog(config),
        exports=tuple(server.exports()),
        in_grace=server.in_grace(),
    )


def look_identity(configured_name: str = "") -> IdentityFacts:
    """Look at this host's identity. ``configured_name``: hosts.name, empty for the system's host name."""
    unique_id, path, made_on = nfs_client_id.persistent()
    booted = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=clock.boottime())
    return IdentityFacts(
        name=configured_name or host_identity.host_name(),
        machine=host_identity.machine_id(),
        boot=host_identity.boot_id(),
        booted=f"{booted:%Y-%m-%dT%H:%M:%SZ}",
        unique_id=nfs_client_id.in_force(),
        persistent=unique_id,
        persistent_in=path,
        hardware=nfs_client_id.machine(),
        made_on=made_on,
    )


def clock_synchronised() -> bool | None:
    """Return whether the kernel says that its clock is synchronised (adjtimex(2)); None when it cannot be asked."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        state = libc.adjtimex(buffer)
    except AttributeError:
        return None
    if state < 0:
        return None
    status = int.from_bytes(buffer.raw[_STATUS_OFFSET : _STATUS_OFFSET + 4], "little")
    return state != _TIME_ERROR and not status & _STA_UNSYNC


def _flag(path: str) -> bool | None:
    try:
        with open(path, encoding="ascii") as stream:
            return stream.read(1) in ("Y", "1")
    except OSError:
        return None


def _watchdog(config: Config) -> str:
    wanted = [config.watch.host_fence, *(entry.get("host_fence") for entry in config.vms.values())]
    if "watchdog" not in wanted:
        return ""
    return HardwareWatchdog(config.watch.watchdog_device).missing() or "ready"
