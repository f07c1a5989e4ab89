"""Findings about what a storage did with a scratch file, and about what lies on it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from vmguard.core.words import shell_word
from vmguard.doctor.facts import IdentityFacts, ModeFacts, MountFacts, ScratchFacts, ShareFacts
from vmguard.doctor.finding import FIX_IDENTITY, Finding, fail, ok, warn

#: paths of one kind that a finding names
_SHOWN = 3
#: a free part below this is as good as none
_SCARCE = 0.03
_NO_DELEGATIONS = (
    "here: echo 'options nfsv4 delegation_watermark=0' > /etc/modprobe.d/vmguard-nfs.conf;"
    " echo 0 > /sys/module/nfsv4/parameters/delegation_watermark; or on a Linux server: sysctl fs.leases-enable=0"
)
_FULL = "df -h and df -i on the server"
#: Linux since 6.19 asks for delegations of directories, NFS-Ganesha before 9.11 answers OP_ILLEGAL (its issue 1385),
#: and the client makes EREMOTEIO of a stat of it (seen with 4.3 and Linux 7.2)
_NO_DIRECTORY_DELEGATIONS = (
    "if the server is NFS-Ganesha before 9.11 and this host's kernel 6.19 or newer: echo 'options nfsv4 "
    "directory_delegations=N' > /etc/modprobe.d/vmguard-directories.conf; "
    "echo N > /sys/module/nfsv4/parameters/directory_delegations"
)
#: what keeps an export from coming later than the server of it
EXPORT_ORDER = (
    "on the server: nfs-server must start after the exported file system is mounted: systemctl edit nfs-server, "
    "[Unit] RequiresMountsFor=/the/export, and exports(5): mountpoint"
)


def judge_scratch(mount: MountFacts, scratch: ScratchFacts) -> list[Finding]:
    """Judge whether the storage answers, and whether its locks work."""
    at = mount.point
    if scratch.hung:
        text = (
            f"{mount.source} did not answer within {scratch.hung:g} s: it is down, unreachable, or in the grace "
            "period after a reboot"
        )
        return [fail("storage.answers", at, text, _reach(mount))]
    name, sentence = scratch.error
    if name == "EROFS" or (name and "ro" in mount.options):
        return [ok("storage.answers", at, "it answers; nothing can be tried on a read-only share")]
    if name in ("EACCES", "EPERM"):
        text = f"neither root nor QEMU's user may create a file here ({sentence}): whether locks work cannot be tried"
        return [ok("storage.answers", at, "it answers"), fail("storage.root", at, text, _owner(mount))]
    if name:
        again = f"umount -l {shell_word(at)} && mount {shell_word(at)}"
        mends = {
            "ENOSPC": _FULL,
            "EDQUOT": _FULL,
            "ESTALE": f"{EXPORT_ORDER}; then here: {again}",
            "EREMOTEIO": _NO_DIRECTORY_DELEGATIONS,
        }
        mend = mends.get(name, again)
        return [fail("storage.answers", at, f"a scratch file could not be made: {sentence}", mend)]
    return [
        ok("storage.answers", at, "it answers"),
        *_lock(at, scratch),
        *_probes(at, scratch),
        _root(mount, scratch),
        *_delegation(at, scratch),
    ]


def _reach(mount: MountFacts) -> str:
    """Return the commands that show whether the server can be reached; neither takes an IPv6 address in brackets."""
    server = shell_word(mount.server)
    ask = f"rpcinfo -T tcp6 {server}" if ":" in server else f"rpcinfo -t {server}"
    return f"ping -c 3 {server}; {ask} nfs 4"


def _owner(mount: MountFacts) -> str:
    export = shell_word(mount.export) if mount.export else "the export"
    return f"on the server: chown libvirt-qemu {export}, or export it with no_root_squash"


def _lock(at: str, scratch: ScratchFacts) -> list[Finding]:
    broken = [
        words
        for holds, words in (
            (scratch.locked, "no exclusive lock can be had"),
            (scratch.conflict, "a second description got the same lock"),
            (scratch.sub_range, "a part of a locked range cannot be freed for others"),
            (
                None if scratch.lock_requests is None else scratch.lock_requests > 0,
                "no LOCK request reached the server",
            ),
            (
                None if scratch.answer is None else not scratch.answer,
                f"the server does not honour the lock ({scratch.answer})",
            ),
        )
        if holds is False
    ]
    if broken:
        mend = "on the server: is lockd or nfsd limited, is this a gateway without byte-range locks? nfsstat -s"
        return [fail("storage.lock", at, "a scratch file shows: " + "; ".join(broken), mend)]
    confirmed = ", and the server confirms the lock" if scratch.answer is not None else ""
    return [ok("storage.lock", at, f"locked, conflict seen, a part freed{confirmed}")]


def _probes(at: str, scratch: ScratchFacts) -> list[Finding]:
    if scratch.not_probed:
        text = f"the server cannot be asked through a locked file ({scratch.not_probed}): a lost lock is noticed late"
        return [warn("storage.probe", at, text, "nfsstat -c; a server with SEEK (NFSv4.2), or disks with cache=none")]
    return [ok("storage.probe", at, f"locks are probed by {scratch.probes}")] if scratch.probes else []


def _root(mount: MountFacts, scratch: ScratchFacts) -> Finding:
    if scratch.squashed:
        text = f"root is squashed here: files are made as {scratch.squashed}"
        return warn("storage.root", mount.point, text, "on the server: export with no_root_squash, then exportfs -ra")
    return ok("storage.root", mount.point, "root is root here")


def _delegation(at: str, scratch: ScratchFacts) -> list[Finding]:
    if not scratch.delegated:
        return [ok("mount.delegations", at, "no lock stays in this client")]
    if not scratch.stays:
        text = "the server hands out write delegations; a lock that stayed in this client was brought to the server"
        return [ok("mount.delegations", at, text)]
    text = (
        "the server hands out write delegations: a lock on a file that was opened without O_DIRECT stayed in this"
        f" client, and could not be brought to the server ({scratch.stays})"
    )
    return [warn("mount.delegations", at, text, _NO_DELEGATIONS)]


def judge_share(mount: MountFacts, share: ShareFacts, identity: IdentityFacts) -> list[Finding]:
    """Judge the owner records of all hosts, and images that are written to without a lock."""
    if share.problem:
        return [warn("storage.foreign-writers", mount.point, f"it could not be looked through: {share.problem}", "")]
    return [
        *_writers(mount, share),
        _space(mount, share),
        _modes(mount, share.modes),
        *_twins(mount, share, identity),
    ]


def _space(mount: MountFacts, share: ShareFacts) -> Finding:
    scarce = [
        f"{free:.1%} of its {what} is free"
        for what, free in (("space", share.free_space), ("inodes", share.free_inodes))
        if free < _SCARCE
    ]
    if scarce:
        mend = f"df -h {shell_word(mount.point)}; df -i {shell_word(mount.point)}   # then make room on the server"
        return warn("storage.space", mount.point, f"nearly full: {', '.join(scarce)}", mend)
    return ok("storage.space", mount.point, f"{share.free_space:.0%} of its space is free")


def _writers(mount: MountFacts, share: ShareFacts) -> list[Finding]:
    if not share.unlocked_writes:
        return [
            ok(
                "storage.foreign-writers",
                mount.point,
                "no image is being written to without a lock, as far as is visible",
            )
        ]
    shown = ", ".join(share.unlocked_writes[:3]) + (", ..." if len(share.unlocked_writes) > 3 else "")
    text = f"written to just now, locked by nobody and open nowhere on this host: {shown}"
    mend = f"look for QEMU or qemu-img on the other hosts that mount {mount.source}, and install vmguard there"
    return [fail("storage.foreign-writers", mount.point, text, mend)]


def _modes(mount: MountFacts, modes: ModeFacts) -> Finding:
    seen = [
        f"{words}: {_some(paths)}"
        for words, paths in (
            ("everybody may write to", modes.writable),
            ("everybody may read", modes.readable),
            ("an ordinary user owns", modes.owned),
        )
        if paths
    ]
    if not seen:
        return ok("storage.modes", mount.point, "only root and QEMU may open the images and change their folders")
    open_to_all = [*modes.writable, *modes.readable]
    mend = [f"chmod o-rwx {' '.join(map(shell_word, open_to_all[:_SHOWN]))}"] if open_to_all else []
    owned = [shell_word(words.rpartition(" (")[0] or words) for words in modes.owned[:_SHOWN]]
    mend += [f"chown root {' '.join(owned)}   # or QEMU's user"] if owned else []
    make = fail if modes.writable else warn
    return make("storage.modes", mount.point, "; ".join(seen), "; ".join(mend))


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more


def _twins(mount: MountFacts, share: ShareFacts, me: IdentityFacts) -> list[Finding]:
    at = mount.point
    later = [record for record in share.records if record.boot != me.boot and record.claimed >= me.booted]
    same_both = [record for record in later if (record.host, record.machine) == (me.name, me.machine)]
    same_name = [record for record in later if record.host == me.name and record.machine != me.machine]
    same_machine = [
        record for record in later if record.host != me.name and me.machine and record.machine == me.machine
    ]
    if same_both:
        text = (
            f"another host with this name AND this machine id has claimed disks (last at {same_both[-1].claimed}): "
            "a clone"
        )
        mend = (
            "on the clone: rm /etc/machine-id && systemd-machine-id-setup && hostnamectl hostname NEW; "
            f"{FIX_IDENTITY} on both"
        )
        return [fail("storage.twins", at, text, mend)]
    if same_name:
        text = f"another machine calls itself {me.name}, too (machine id {same_name[-1].machine[:8]}...)"
        make = warn if me.unique_id else fail
        return [make("storage.twins", at, text, f"hostnamectl hostname NEW on one of them; {FIX_IDENTITY} on both")]
    if same_machine:
        text = f"host {same_machine[-1].host} has the machine id of this host: one is a clone of the other"
        mend = "on the clone: rm /etc/machine-id && systemd-machine-id-setup, then reboot"
        return [warn("storage.twins", at, text, mend)]
    return [ok("storage.twins", at, "no other host of this share claims to be this one")]
