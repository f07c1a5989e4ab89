"""The whole examination. Whatever touches a share runs in children, all at once, each with a deadline."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.linux import bounded_child, mounts
from vmguard.adapters.linux.bounded_child import Child
from vmguard.config import Config
from vmguard.core.reports.vm_report import DiskStatus
from vmguard.core.watchdog.timing import Wishes
from vmguard.doctor import (
    look_confinement,
    look_guard,
    look_host,
    look_mount,
    look_proxmox,
    look_qemus,
    look_share,
    scratch,
)
from vmguard.doctor.facts import (
    AbsentShareFacts,
    DiskFacts,
    HostFacts,
    MountFacts,
    OtherMountFacts,
    ScratchFacts,
    ShareFacts,
    VmFacts,
)
from vmguard.doctor.finding import Finding, Level
from vmguard.doctor.judge_confinement import judge_confinement
from vmguard.doctor.judge_guard import judge_guard, judge_libvirt, judge_proxmox, judge_vm
from vmguard.doctor.judge_host import judge_host
from vmguard.doctor.judge_mount import judge_mount, judge_mounts
from vmguard.doctor.judge_qemus import judge_qemus
from vmguard.doctor.judge_storage import judge_scratch, judge_share
from vmguard.doctor.per_server import per_server
from vmguard.errors import BadInput, StorageTimeout, VmguardError
from vmguard.query import ask_daemon, other_mounts, reports, server_cache
from vmguard.query.places import Places


@dataclass(frozen=True)
class Wanted:
    """What to examine: everything, or one VM or path with its mounts. ``seconds``: a storage's time to answer."""

    subject: str = ""
    seconds: float = 5.0
    prove: bool = True
    config_paths: list[str] | None = None


def examine(config: Config, places: Places, wanted: Wanted) -> list[Finding]:
    """Return all findings, the host's first. Raises BadInput when the subject is neither a path nor a VM."""
    everything = [_with_grace(mount, places) for mount in look_mount.look()]
    others = look_mount.look_others()
    vm, chosen, others = _subject(wanted, places, everything, others)
    host = look_host.look(config)
    trials = [begin_trial(mount, config, wanted.seconds) for mount in chosen]
    confinement = look_confinement.look(look_guard.interpreters(config))
    findings = [*judge_host(host), *judge_confinement(confinement), *_guard(config, wanted)]
    findings += judge_mounts(everything, others, _absent(wanted.seconds))
    for trial in trials:
        findings += trial.findings(config, host)
    return per_server(findings, everything) + (judge_vm(vm) if vm is not None else [])


def _with_grace(mount: MountFacts, places: Places) -> MountFacts:
    """Add the server's own grace period, as far as the daemon has asked for it lately."""
    about = mounts.Mount(0, mount.device, mount.point, mounts.NFS_TYPES[0], mount.source, "")
    kept = server_cache.of_mount(about, places)
    return mount if kept is None else replace(mount, grace=kept.times.grace)


def _absent(seconds: float) -> list[AbsentShareFacts]:
    """Look for shares that are not mounted: on the way to their mount points others may lie, and hang."""
    what = "the mount points of configured shares were looked at"
    try:
        found = bounded_child.run(lambda: [asdict(share) for share in look_mount.look_absent()], seconds, what)
    except VmguardError:
        return []  # the share that hangs has a finding of its own
    return [AbsentShareFacts(**share) for share in found]


def _guard(config: Config, wanted: Wanted) -> list[Finding]:
    guard = look_guard.look(config, wanted.config_paths, wanted.seconds)
    libvirt = look_guard.look_libvirt(config, wanted.prove, max(wanted.seconds, 10.0))
    return [
        *judge_guard(guard),
        *judge_libvirt(libvirt),
        *judge_proxmox(look_proxmox.look(config, wanted.seconds)),
        *judge_qemus(*look_qemus.look_qemus(RunDirs(config.libvirt.run_dir, config.proxmox.run_dir))),
    ]


def begin_trial(mount: MountFacts, config: Config, seconds: float) -> ShareTrial:
    """Begin to try out a share: its locks, and what lies on it."""
    record = config.owner_record
    folder = record.directory if record.enabled else ""
    seek, user = mount.version == "4.2", config.libvirt.qemu_user
    return ShareTrial(
        mount,
        seconds,
        lambda: scratch.attempt(mount.point, mount.point, seek, user),
        lambda: look_share.look(mount.point, folder, user),
    )


class ShareTrial:
    """The trial of one share, in two children that may hang."""

    def __init__(
        self,
        mount: MountFacts,
        seconds: float,
        try_locks: Callable[[], ScratchFacts],
        look_through: Callable[[], ShareFacts],
    ) -> None:
        """Start both children; each may take ``seconds``."""
        self._mount = mount
        self._seconds = seconds
        self._scratch = Child(lambda: asdict(try_locks()), seconds, f"locks on {mount.point} were tried")
        self._share = Child(lambda: asdict(look_through()), seconds, f"{mount.point} was looked through")

    def findings(self, config: Config, host: HostFacts) -> list[Finding]:
        """Return what is wrong with the share. Waits for the children."""
        watch = config.watch
        wishes = Wishes(margin=watch.margin or None, probe=watch.probe or None, slow_round=watch.slow_round)
        found = judge_mount(self._mount, host, wishes)
        tried = self._tried()
        found += judge_scratch(self._mount, tried)
        share = self._looked_through()
        if tried.hung:
            return found  # one finding about a hanging storage is enough
        return found + judge_share(self._mount, share, host.identity)

    def _tried(self) -> ScratchFacts:
        try:
            return ScratchFacts.from_json(self._scratch.result())
        except StorageTimeout:
            return ScratchFacts(hung=self._seconds)
        except VmguardError as problem:
            return ScratchFacts(error=("EIO", problem.message))

    def _looked_through(self) -> ShareFacts:
        try:
            return ShareFacts.from_json(self._share.result())
        except VmguardError as problem:
            return ShareFacts(problem=problem.message)


# -- the subject ----------------------------------------------------------------------------------------------------


def _subject(
    wanted: Wanted, places: Places, everything: list[MountFacts], others: list[OtherMountFacts]
) -> tuple[VmFacts | None, list[MountFacts], list[OtherMountFacts]]:
    """Return the VM that was asked for, if any, the mounts to try, and those to warn of. Raises BadInput."""
    if not wanted.subject:
        return None, everything, others
    if "/" in wanted.subject:
        path = os.path.abspath(wanted.subject)
        mount = look_mount.mount_of(path, everything)
        table = list(mounts.mounts())
        if mount is None and (why := other_mounts.why_of_path(path, table)):
            under = mounts.mount_of_path(path, table)
            return None, [], [OtherMountFacts(under.point if under else path, why)]
        if mount is None:
            raise BadInput(f"{path} is on no NFS mount of this host", "findmnt -t nfs,nfs4 shows those it has")
        return None, [mount], []
    report = reports.check(wanted.subject, places, ask_daemon.everything(places))
    paths = [disk.path for disk in report.disks if disk.path]
    locked_in_vain = tuple((disk.path, disk.text) for disk in report.disks if disk.verdict is DiskStatus.OTHER_MOUNT)
    if not report.state:
        locked_in_vain = ()  # the plan of its start has said so
    vm = VmFacts(
        name=report.name,
        disks=_disks(paths, wanted.seconds),
        unguarded=tuple((item["source"], item["reason"]) for item in report.unguarded) + locked_in_vain,
    )
    found = [look_mount.mount_of(disk.real or disk.path, everything) for disk in vm.disks]
    return vm, list({mount.point: mount for mount in found if mount is not None}.values()), []


def _disks(paths: list[str], seconds: float) -> tuple[DiskFacts, ...]:
    """Look at each path in a child of its own, all at once."""
    asked = [(path, Child(functools.partial(_place, path), seconds, f"{path} was looked at")) for path in paths]
    found = []
    for path, child in asked:
        try:
            real, links = child.result()
            found.append(DiskFacts(path, str(real), int(links)))
        except VmguardError as problem:
            found.append(DiskFacts(path, path, problem=problem.message))
    return tuple(found)


def _place(path: str) -> list[str | int]:
    return [os.path.realpath(path), os.stat(path).st_nlink]


def by_level(findings: list[Finding]) -> dict[Level, int]:
    """Count the findings of each level."""
    return {level: sum(finding.level is level for finding in findings) for level in Level}
