"""What a start does for a session VM: one of an ordinary user's own libvirt (qemu:///session).

The session daemons of all users call the hooks in /etc/libvirt/hooks, too. None of these users may talk to vmguard's
daemon, and none of their VMs can be guarded: locks that survive QEMU, freezes and fences are root's.
``hook.session_vms`` says what becomes of them. By default such a VM starts if none of its files lies on NFS, where
another host could open them.

Imported only when the daemon cannot be asked, by a user that is not root, so that it may load the whole configuration.
"""

from __future__ import annotations

import functools
import os
import site
import sys
import syslog
from collections.abc import Callable, Iterable

from vmguard.adapters.linux import bounded_child, mounts
from vmguard.adapters.storage.backing_chain import resolve
from vmguard.adapters.storage.files import ReadOnlyOpener
from vmguard.adapters.storage.libvirt_pools import Pools
from vmguard.adapters.storage.reach import Reach
from vmguard.core.sources.domain_xml import FILE, Domain
from vmguard.core.words import printable
from vmguard.errors import ConfigError, DaemonError, VmguardError

_ELSEWHERE = (
    "run it as a system VM (virsh -c qemu:///system), which is guarded, or move its files to a file system of this "
    "host; hook.session_vms: allow in /etc/vmguard/vmguard.yaml starts session VMs UNGUARDED wherever their files lie"
)
#: the configuration's own default, for when this user may not read it
_TIMEOUT_S = 20.0

ReadMounts = Callable[[], Iterable[mounts.Mount]]


def refuse_unless_allowed(domain: Domain, name: str, read_mounts: ReadMounts = mounts.mounts) -> None:
    """Raise VmguardError if the configuration does not let the VM start unguarded."""
    policy, seconds, trusted = _policy()
    who = f"VM '{printable(name)}' is a session VM of user {os.geteuid()}, which vmguard cannot guard"
    if policy == "allow":
        syslog.openlog("vmguard", syslog.LOG_PID)
        syslog.syslog(syslog.LOG_WARNING, f"{who}: it starts UNGUARDED (hook.session_vms is allow)")
        return
    if policy == "refuse":
        raise DaemonError(f"{who}, so it is not started (hook.session_vms is refuse)", _ELSEWHERE)
    try:
        look = functools.partial(files_on_shares, domain, trusted, read_mounts)
        shared = bounded_child.run(look, seconds, "looking where its files lie")
    except VmguardError as problem:
        raise DaemonError(
            f"{who}, and it is not started, because nobody knows whether its files lie on NFS: {problem.message}",
            problem.hint or _ELSEWHERE,
        ) from None
    if shared:
        path, point = shared[0]
        more = f" (and {len(shared) - 1} more)" if len(shared) > 1 else ""
        raise DaemonError(
            f"{who}, and it is not started, because {printable(path)}{more} lies on NFS, where another host could open "
            f"it at the same time (mounted on {printable(point)})",
            _ELSEWHERE,
        )


def _policy() -> tuple[str, float, tuple[str, ...]]:
    """Return ``hook.session_vms``, the seconds that the share gets, and where it may lead. Raise ConfigError."""
    if sys.flags.no_site:  # as hooks run; the configuration needs the yaml package
        site.main()
    from vmguard import config

    try:
        found = config.load()
    except ConfigError:
        if _is_hidden(config.DIRECTORY):
            return "local", _TIMEOUT_S, ()
        raise
    return found.hook.session_vms, found.hook.timeout, found.storage.trusted_folders


def _is_hidden(directory: str) -> bool:
    """Return whether a part of the configuration is there that this user may not read."""
    drop_ins = os.path.join(directory, "conf.d")
    try:
        names = [os.path.join(drop_ins, name) for name in os.listdir(drop_ins)]
    except OSError:
        names = []
    paths = [directory, os.path.join(directory, "vmguard.yaml"), drop_ins, *names]
    return any(os.path.lexists(path) and not os.access(path, os.R_OK) for path in paths)


def files_on_shares(
    domain: Domain, trusted: tuple[str, ...] = (), read_mounts: ReadMounts = mounts.mounts
) -> list[tuple[str, str]]:
    """Return (path, mount point) of the files that lie on NFS; of one that is still to be made, where it will lie.

    Opens them as this user, so it may hang: only for a child. Raise VmguardError when they cannot be determined.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):  # libvirt waits until nobody has its pipes any more
        os.dup2(null, fd)
    try:
        opener = ReadOnlyOpener(trusted, Reach(trusted, read_mounts))
        resolved = resolve(domain, opener, Pools(_pool_directories()))
    except VmguardError:
        # libvirt and QEMU will say what is wrong; only where there are shares must it be known first.
        if any(mount.is_nfs or mount.type == "autofs" for mount in read_mounts()):
            raise
        return []
    found = {file.path: file.key[0] for file in resolved.files}
    resolved.close()
    for source in domain.sources:
        if source.kind == FILE and source.path not in found and source.late:
            found[source.path] = _device_around(source.path)
    _refuse_bare_folders(list(found), list(read_mounts()))
    points = {mount.device: mount.point for mount in read_mounts() if mount.is_nfs}  # only now: automounts
    return sorted((path, points[device]) for path, device in found.items() if device in points)


def _refuse_bare_folders(paths: list[str], table: list[mounts.Mount]) -> None:
    """Raise PlanError if a file lies where a share is to be mounted, and is not."""
    from vmguard.adapters.linux import configured_mounts
    from vmguard.hook import absent_shares

    shares = configured_mounts.shares()
    configured_mounts.resolve_points(shares, table)
    absent_shares.refuse(paths, lambda files: absent_shares.explain(files, shares, table))


def _device_around(path: str) -> int:
    """Return the device of the nearest folder of a path that exists; -1 for none."""
    while path not in ("", "/"):
        path = os.path.dirname(path)
        try:
            return os.stat(path).st_dev
        except OSError:
            continue
    return -1


def _pool_directories() -> tuple[str, ...]:
    """Return where a session daemon keeps its pools. XDG_* do not reach a hook, so these are their usual values."""
    home = os.environ.get("HOME") or "/"
    run_dirs = (f"/run/user/{os.geteuid()}", os.path.join(home, ".cache"))
    active = (os.path.join(folder, "libvirt/storage/run") for folder in run_dirs)
    return (*active, os.path.join(home, ".config/libvirt/storage"))
