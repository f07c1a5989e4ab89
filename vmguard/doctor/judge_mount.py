"""Findings about a mount, from its options and counters in the kernel. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from vmguard.core.watchdog.timing import ImpossibleTiming, Wishes, timeline
from vmguard.core.words import shell_word
from vmguard.doctor.facts import AbsentShareFacts, HostFacts, MountFacts, OtherMountFacts
from vmguard.doctor.finding import Finding, fail, ok, warn

#: a mount made earlier after boot than this may skip lease renewals (jiffies start at -5 min)
_EARLY_S = 300.0
#: series -> first patch level with the fix of the lease renewals
_RENEWAL_FIXED = {(6, 1): 159, (6, 12): 59}
_RENEWAL_MAINLINE = (6, 18)
_FLEXFILES_FIXED = (6, 12, 117)
#: older kernels never notice a dead connection in less than 18 s (rpc_set_connect_timeout,
#: xs_tcp_set_socket_timeouts)
_QUICK_KERNEL = (6, 12, 0)
_SLOW_NOTICE_S = 18.0
#: how much longer than that a server's grace period should be
_GRACE_MARGIN_S = 12.0
#: of each half of an id that was made from a UUID
_UNIQUE_FSID_DIGITS = 8
_NFS_PORT = "2049"
#: with a longer lease people wait long after a host has died
_LONG_LEASE_S = 120.0


def judge_mount(mount: MountFacts, host: HostFacts, wishes: Wishes) -> list[Finding]:
    """Judge one mount."""
    found = [_version(mount), _hard(mount), _local_locks(mount), _transport(mount), _writable(mount)]
    if mount.version.startswith("4"):
        found += [*_lease(mount, host, wishes), _pnfs(mount, host), _early(mount, host)]
    return found


def judge_mounts(
    mounts: list[MountFacts], others: Sequence[OtherMountFacts] = (), absent: Sequence[AbsentShareFacts] = ()
) -> list[Finding]:
    """Judge all mounts together, and the shares that should be mounted."""
    return [*_two_ways(mounts), *judge_others(others), *_absent(absent)]


def _two_ways(mounts: list[MountFacts]) -> list[Finding]:
    if not mounts:
        text = "no NFS mount on this host: there is no shared disk to guard yet"
        return [
            warn(
                "mount.nfs", "host", text, "mount -t nfs -o vers=4.2,hard SERVER:/EXPORT /srv/vm   # and in /etc/fstab"
            )
        ]
    shares: list[list[MountFacts]] = []
    for mount in mounts:
        group = next((group for group in shares if any(_is_same_share(mount, known) for known in group)), None)
        if group is None:
            shares.append([mount])
        else:
            group.append(mount)
    found = []
    for same in shares:
        if len({mount.device for mount in same}) > 1:
            names = " alias ".join(dict.fromkeys(mount.source.rstrip("/") for mount in same))
            points = ", ".join(f"{mount.point} (vers={mount.version})" for mount in same)
            text = f"{names} is mounted as {len({mount.device for mount in same})} separate file systems: {points}"
            cure = f"umount {shell_word(same[-1].point)}"
            found.append(warn("mount.two-ways", same[0].source.rstrip("/"), text, cure))
    return found or [ok("mount.two-ways", "host", "no share is mounted as two file systems")]


def _is_same_share(one: MountFacts, other: MountFacts) -> bool:
    """Return whether two mounts are of one export, whatever names and addresses its server has."""
    if one.export.rstrip("/") != other.export.rstrip("/") or _port(one) != _port(other):
        return False
    # An id that an admin chose (fsid=1) is mostly zeros, and other servers have it, too; one of a UUID is unique.
    unique = one.fsid if min(map(len, one.fsid.split(":"))) >= _UNIQUE_FSID_DIGITS else ""
    return _address(one) == _address(other) or (unique != "" and unique == other.fsid)


def _address(mount: MountFacts) -> str:
    """Return the server's address as the kernel uses it (addr=), else its name."""
    text = mount.option("addr") or mount.server
    plain, *zone = text.partition("%")
    try:
        address = ipaddress.ip_address(plain)
    except ValueError:
        return text.lower().rstrip(".")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped) if mapped is not None else str(address) + "".join(zone)


def _port(mount: MountFacts) -> str:
    """Return the server's port, empty for the usual one: behind one address there may be several servers (a tunnel)."""
    port = mount.option("port")
    return "" if port in ("0", _NFS_PORT) else port


def judge_others(others: Sequence[OtherMountFacts]) -> list[Finding]:
    """Judge the mounts that are neither NFSv4 nor this host's own."""
    mend = "keep disks of VMs on NFSv4.2; policy.other_mounts: refuse in /etc/vmguard/vmguard.yaml refuses them here"
    text = "a writable disk here is not guarded against other hosts"
    found = [warn("mount.other", other.point, f"{text}: {other.why}", mend) for other in others]
    return found or [ok("mount.other", "host", "no shared file system of another kind than NFS")]


def _absent(absent: Sequence[AbsentShareFacts]) -> list[Finding]:
    found = [
        warn(
            "mount.absent",
            share.point,
            f"{share.source} is to be mounted here ({share.file}), and is not: VMs with disks below are refused",
            f"mount {shell_word(share.point)}",
        )
        for share in absent
    ]
    return found or [ok("mount.absent", "host", "each share that is configured is mounted")]


def _remount(mount: MountFacts, options: str) -> str:
    """Return the commands that change NFS options: ``mount -o remount`` keeps those of the first mount."""
    # An IPv6 address has brackets, which a shell expands.
    source, point = shell_word(mount.source), shell_word(mount.point)
    return f"umount {point} && mount -t nfs -o {options} {source} {point}   # and in /etc/fstab"


def _version(mount: MountFacts) -> Finding:
    better = _remount(mount, "vers=4.2,hard")
    if mount.version in ("4.1", "4.2"):
        return ok("mount.version", mount.point, f"NFSv{mount.version}")
    if mount.version.startswith("4"):
        text = "NFSv4.0: no sessions, so a reboot that was missed and a stolen identity are noticed late or never"
        return fail("mount.version", mount.point, text, better)
    text = f"NFSv{mount.version or '?'}: a lost lock is never noticed, and vmguard refuses to start VMs here"
    return fail("mount.version", mount.point, text, better)


def _hard(mount: MountFacts) -> Finding:
    soft = next((word for word in mount.options if word in ("soft", "softerr")), "")
    if soft:
        text = f"mounted {soft}: in an outage guests get I/O errors instead of waiting"
        return fail("mount.hard", mount.point, text, _remount(mount, f"vers={mount.version or '4.2'},hard"))
    return ok("mount.hard", mount.point, "mounted hard")


def _local_locks(mount: MountFacts) -> Finding:
    local = mount.option("local_lock")
    if "nolock" in mount.options or local in ("all", "posix"):
        word = "nolock" if "nolock" in mount.options else f"local_lock={local}"
        return fail(
            "mount.local-locks",
            mount.point,
            f"mounted {word}: locks stay on this host",
            _remount(mount, "vers=4.2,hard"),
        )
    return ok("mount.local-locks", mount.point, "locks go to the server")


def _transport(mount: MountFacts) -> Finding:
    transport = mount.option("proto") or "tcp"
    if transport.startswith("udp"):
        return fail("mount.transport", mount.point, "mounted over UDP", _remount(mount, "vers=4.2,hard,proto=tcp"))
    return ok("mount.transport", mount.point, f"over {transport}")


def _writable(mount: MountFacts) -> Finding:
    if "ro" in mount.options:
        text = "mounted read-only: VMs with a writable disk here are refused"
        return warn("mount.writable", mount.point, text, f"mount -o remount,rw {shell_word(mount.point)}")
    return ok("mount.writable", mount.point, "mounted read-write")


def _lease(mount: MountFacts, host: HostFacts, wishes: Wishes) -> list[Finding]:
    lease = mount.lease
    try:
        times = timeline(lease, wishes)
    except ImpossibleTiming as problem:
        return [
            fail("mount.lease", mount.point, f"lease {lease:g} s: {problem}", "vmguard config show; vmguard timing")
        ]
    text = (
        f"lease {lease:g} s: VMs freeze {times.freeze:.4g} s after the server's last word, another host may take "
        f"over after {times.expiry:.4g} s"
    )
    mend = "on the server: /etc/nfs.conf, [nfsd] lease-time=30 and grace-time=45, then restart it at a quiet hour"
    if lease > _LONG_LEASE_S:
        return [
            warn("mount.lease", mount.point, f"{text}: a long wait after a host has died", mend),
            _reconnect(mount, host),
        ]
    return [ok("mount.lease", mount.point, text), _reconnect(mount, host)]


def _reconnect(mount: MountFacts, host: HostFacts) -> Finding:
    slowest = mount.lease if (kernel_version(host) or (0,)) >= _QUICK_KERNEL else max(mount.lease, _SLOW_NOTICE_S)
    if mount.grace is not None:
        return _known_grace(mount, slowest, mount.grace)
    need = (
        f"a dead connection is noticed within {slowest:g} s; the server's grace period must be longer (it is "
        "not visible from here)"
    )
    if slowest > mount.lease:
        return warn(
            "mount.reconnect",
            mount.point,
            f"{need}, and with a lease of {mount.lease:g} s it may well be shorter",
            f"on the server: /etc/nfs.conf, [nfsd] grace-time={slowest + _GRACE_MARGIN_S:.0f} (and lease-time=30)",
        )
    return ok("mount.reconnect", mount.point, need)


def _known_grace(mount: MountFacts, slowest: float, grace: float) -> Finding:
    """Judge a grace period that the server itself has told."""
    text = (
        f"a dead connection is noticed within {slowest:g} s, and the server says that its grace period is {grace:g} s"
    )
    if grace < slowest:
        mend = f"on the server: /etc/nfs.conf, [nfsd] grace-time={slowest + _GRACE_MARGIN_S:.0f} (and lease-time=30)"
        return warn("mount.reconnect", mount.point, f"{text}, which is shorter", mend)
    return ok("mount.reconnect", mount.point, text)


def _pnfs(mount: MountFacts, host: HostFacts) -> Finding:
    if mount.pnfs == "not configured":
        return ok("mount.pnfs", mount.point, "no pNFS layouts")
    old = (kernel_version(host) or (0,)) < _FLEXFILES_FIXED
    text = f"pNFS with {mount.pnfs}" + (f", on kernel {host.release}" if old else "")
    make = fail if old else warn
    return make("mount.pnfs", mount.point, text, "on the server: turn pNFS off for this export (exports(5): no_pnfs)")


def _early(mount: MountFacts, host: HostFacts) -> Finding:
    after_boot = host.uptime - mount.age
    if renewals_fixed(host) or after_boot >= _EARLY_S:
        return ok("mount.early", mount.point, "not touched by the lease-renewal bug of early mounts")
    text = f"mounted {max(after_boot, 0):.0f} s after boot on kernel {_named(host)}, which may skip lease renewals then"
    return warn(
        "mount.early", mount.point, text, "apt full-upgrade && reboot   # a kernel from 6.1.159, 6.12.59 or 6.18 on"
    )


def kernel_version(host: HostFacts) -> tuple[int, int, int] | None:
    """Return the upstream version. Debian has it in ``uname -v``: its ``uname -r`` names the ABI (6.1.0-28-amd64)."""
    found = re.search(r"Debian (\d+)\.(\d+)\.(\d+)", host.kernel) or re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", host.release)
    if found is None:
        return None
    major, minor, patch = (int(number or 0) for number in found.groups())
    return major, minor, patch


def renewals_fixed(host: HostFacts) -> bool:
    """Return whether this kernel surely has the fix of the skipped lease renewals."""
    version = kernel_version(host)
    if version is None:
        return False
    fixed = _RENEWAL_FIXED.get(version[:2])
    return version >= _RENEWAL_MAINLINE or (fixed is not None and version[2] >= fixed)


def _named(host: HostFacts) -> str:
    version = kernel_version(host)
    return ".".join(map(str, version)) if version else host.release
