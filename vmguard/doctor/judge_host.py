"""Findings about this host: identity, clock, kernel parameters, watchdog device. Pure."""

from __future__ import annotations

from vmguard.doctor.facts import HostFacts, IdentityFacts
from vmguard.doctor.finding import FIX_IDENTITY, Finding, fail, ok, warn

_AT = "host"
_NAMELESS = ("", "localhost", "localhost.localdomain", "(none)", "debian", "pve")


def judge_host(host: HostFacts) -> list[Finding]:
    """Judge this host."""
    return [
        _recover(host),
        _name(host.identity),
        _identity(host.identity),
        _clock(host),
        _nfs_server(host),
        _watchdog(host),
    ]


def _recover(host: HostFacts) -> Finding:
    if host.recover_lost_locks:
        mend = "echo N > /sys/module/nfs/parameters/recover_lost_locks; grep -rl recover_lost_locks /etc/modprobe.d"
        return fail("host.recover-lost-locks", _AT, "nfs.recover_lost_locks is on", mend)
    return ok("host.recover-lost-locks", _AT, "nfs.recover_lost_locks is off")


def _name(me: IdentityFacts) -> Finding:
    if me.name.lower() not in _NAMELESS:
        return ok("host.name", _AT, f"this host is called {me.name}")
    text = f"this host is called {me.name or 'nothing at all'!r}, as many others are"
    make = warn if me.unique_id else fail
    return make("host.name", _AT, text, f"hostnamectl hostname NAME; {FIX_IDENTITY}")


def _identity(me: IdentityFacts) -> Finding:
    """Judge the NFS client id, the worst case first: a clone's id is worse than none, since it looks like one."""
    if me.persistent and me.made_on and me.hardware and me.made_on != me.hardware:
        text = f"the NFS client id in {me.persistent_in} was made on another machine: this one is a clone of it"
        return fail("host.identity", _AT, text, FIX_IDENTITY)
    if not me.persistent:
        now = (
            f"set by hand to {me.unique_id}, and gone at the next boot" if me.unique_id else f"the host name {me.name}"
        )
        return warn("host.identity", _AT, f"the NFS client id is {now}", FIX_IDENTITY)
    if me.unique_id is None or me.unique_id == me.persistent:
        return ok("host.identity", _AT, f"the NFS client id is {me.persistent} ({me.persistent_in})")
    now = f"{me.unique_id}" if me.unique_id else f"the host name {me.name}"
    text = f"{me.persistent_in} sets the NFS client id {me.persistent}, but in force is {now}"
    return warn(
        "host.identity", _AT, text, "reboot, or unmount every NFS share, modprobe -r nfsv4 nfs, and mount again"
    )


def _clock(host: HostFacts) -> Finding:
    if host.clock_synchronised:
        return ok("host.clock", _AT, "the clock is synchronised")
    known = "not synchronised" if host.clock_synchronised is False else "of unknown state (adjtimex cannot be asked)"
    return warn("host.clock", _AT, f"the clock is {known}", "timedatectl set-ntp true   # or: apt install chrony")


def _nfs_server(host: HostFacts) -> Finding:
    if not host.exports:
        return ok("host.nfs-server", _AT, "this host exports nothing by NFS")
    text = (
        f"this host exports {', '.join(host.exports[:4])} by NFS: VMs that start here from there wait while its NFS"
        " server is in its grace period" + (", as it is now" if host.in_grace else "")
    )
    mend = "autostart VMs after the grace period; let no program but vmguard's hook lock files there"
    return warn("host.nfs-server", _AT, text, mend)


def _watchdog(host: HostFacts) -> Finding:
    if not host.watchdog:
        return ok(
            "host.watchdog",
            _AT,
            "not used: watch.host_fence is none, so a VM that cannot be proven dead is an alarm only",
        )
    if host.watchdog == "ready":
        return ok("host.watchdog", _AT, "there, and closed until it is needed")
    text = f"watch.host_fence is watchdog, but it could not fire: {host.watchdog}"
    return fail("host.watchdog", _AT, text, "modprobe softdog   # or the module of this host's hardware watchdog")
