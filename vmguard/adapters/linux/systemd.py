"""Use what systemd offers a service: socket activation, the descriptor store, readiness (sd_notify(3)).

Nothing here does anything, and nothing complains, if systemd has not started the daemon.

Closing a descriptor on NFS may send requests and wait for their answers without end, and PID 1 must never do that: it
would answer nobody on this host any more (measured: systemd 252, storage away, ``systemctl stop`` of a service whose
store held the last copy of a descriptor). So

* PID 1 gets no descriptor of a share but a parcel with one (adapters/linux/parcel.py). Nothing that PID 1, or what it
  forks, does to a parcel reaches the file, as long as it is not the last that has it;
* PID 1 is never the last: ``forget``, then ``barrier``, and only then is our own last copy closed. What is closed last
  sends LOCKU and CLOSE. When the daemon ends before that, however it does, the keeper still has a copy
  (adapters/linux/keeper.py);
* PID 1 gets nothing of a description that writes through the page cache: closed last, it would have to be written out.
  See ``may_store``.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import socket
from collections.abc import Callable

from vmguard.adapters.linux import clock, mounts, parcel, proc
from vmguard.adapters.linux.keeper import keeper

log = logging.getLogger("vmguard.systemd")

_FIRST_FD = 3
#: that PID 1 gets to take a notification from the loop
_NOTIFY_TIMEOUT_S = 0.2
#: for which PID 1 is not waited for after it has not taken one
_STUCK_S = 10.0
#: that PID 1 gets to let go of a descriptor before it counts as stuck
BARRIER_TIMEOUT_S = 20.0
#: in each interval of WatchdogSec=, so that one that comes late does not count as silence
_PINGS_PER_INTERVAL = 3


def listen_fds() -> list[tuple[str, int]]:
    """Return the descriptors that systemd passed: (name, fd). They are ours alone from here on (close-on-exec)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(variable, None)
    found = []
    for index in range(count):
        fd = _FIRST_FD + index
        os.set_inheritable(fd, False)
        found.append((names[index] if index < len(names) else "", fd))
    return found


class ServiceManager:
    """Whoever started this service, PID 1 as a rule, at the other end of its notification socket."""

    def __init__(self, now: Callable[[], float] = clock.boottime) -> None:
        self._now = now
        #: until then it is not waited for
        self._stuck_until = 0.0

    def notify(self, text: str, fds: tuple[int, ...] = (), patience: float = _NOTIFY_TIMEOUT_S) -> bool:
        """Send one notification; return False if nothing listens, or it could not be sent.

        A PID 1 that stands still takes a few hundred notifications and then none: it must not stop the watchdog, too.
        A worker may have more ``patience``, in seconds.
        """
        address = os.environ.get("NOTIFY_SOCKET", "")
        if not address:
            return False
        if address.startswith("@"):
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                is_stuck = self._now() < self._stuck_until and patience == _NOTIFY_TIMEOUT_S
                sock.settimeout(0.0 if is_stuck else patience)
                sock.connect(address)
                socket.send_fds(sock, [text.encode(errors="backslashreplace")], list(fds))
        except OSError as problem:
            if isinstance(problem, TimeoutError):
                self._stuck_until = self._now() + _STUCK_S
            log.error("cannot notify systemd: %s", problem)
            return False
        return True


notify = ServiceManager().notify


def store(name: str, fd: int) -> bool:
    """Leave a copy of a descriptor with systemd: it comes back after a crash or restart of this service.

    FDPOLL=0: systemd must not watch it, a parcel is readable all the time.
    """
    if not os.environ.get("NOTIFY_SOCKET"):
        return False
    try:
        packed = parcel.wrap(fd)
    except OSError as problem:
        log.error("systemd gets no copy of %s: %s", name, problem)
        return False
    with packed:
        keeper.keep(name, packed.fileno())
        return notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", (packed.fileno(),))


def unpack(stored: dict[str, int]) -> dict[str, int]:
    """Return the descriptors in what systemd kept, whose own are closed; the keeper gets copies of the parcels.

    What vmguard 0.1 stored is no parcel: it is stored anew as one.
    """
    found = {}
    for name, fd in stored.items():
        descriptor = parcel.unwrap(fd)
        if descriptor is None:
            found[name] = fd
            forget(name)
            store(name, fd)
        else:
            found[name] = descriptor
            keeper.keep(name, fd)
            os.close(fd)
    return found


def forget(name: str, patience: float = _NOTIFY_TIMEOUT_S) -> bool:
    """Have systemd close its copies of that name."""
    keeper.drop(name)
    return notify(f"FDSTOREREMOVE=1\nFDNAME={name}", patience=patience)


def barrier(seconds: float = BARRIER_TIMEOUT_S) -> bool:
    """Wait until systemd has acted on all that was sent before (sd_notify_barrier(3)); True without systemd.

    The keeper has, too, then. It may take a moment, so it belongs in a worker. Return False if one of them did not
    answer in time.
    """
    if not os.environ.get("NOTIFY_SOCKET"):
        return True
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            sent = notify("BARRIER=1", (theirs,), seconds)
        finally:
            os.close(theirs)
        if not sent:
            return False
        poll = select.poll()
        poll.register(ours, 0)  # POLLHUP is always told: systemd has closed its end
        return bool(poll.poll(seconds * 1000)) and keeper.sync(seconds)
    finally:
        os.close(ours)


def keepers() -> set[int]:
    """Return the process with the descriptors of our store: the one that started us, PID 1. It uses no disk."""
    return {os.getppid()} if os.environ.get("NOTIFY_SOCKET") else set()


def may_store(fd: int) -> bool:
    """Return whether PID 1 may have a copy of a descriptor: not if its close could have pages to write to a server."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & os.O_DIRECT or flags & os.O_ACCMODE == os.O_RDONLY:
        return True
    mount = mounts.mount_of_id(proc.fdinfo("self", fd).mount_id)
    return mount is not None and not mount.is_nfs


def keep_alive(call_in: Callable[[float, Callable[[], None]], object]) -> None:
    """Ping systemd's watchdog for as long as the loop behind ``call_in`` turns (WatchdogSec=)."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    pause = int(microseconds) / 1e6 / _PINGS_PER_INTERVAL

    def ping() -> None:
        notify("WATCHDOG=1")
        call_in(pause, ping)

    ping()
