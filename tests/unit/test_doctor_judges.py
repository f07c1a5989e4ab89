"""Each finding of the doctor, from a bad state and from the good one. A check fails that no bad state here calls up."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from typing import Any

import pytest

from vmguard.adapters.linux.mounts import Mount, why_other
from vmguard.cli.main import all_parsers
from vmguard.core.reports.status import Status
from vmguard.core.watchdog.timing import Wishes
from vmguard.doctor.catalogue import CHECKS
from vmguard.doctor.facts import (
    AbsentShareFacts,
    ConfinementFacts,
    DisbelievedFacts,
    DiskFacts,
    GuardFacts,
    HostFacts,
    IdentityFacts,
    LibvirtFacts,
    ModeFacts,
    MountFacts,
    OtherMountFacts,
    ProxmoxFacts,
    QemuFacts,
    RecordFacts,
    ScratchFacts,
    ShareFacts,
    UnitFacts,
    VmFacts,
)
from vmguard.doctor.finding import Finding, Level, status_of
from vmguard.doctor.judge_confinement import judge_confinement
from vmguard.doctor.judge_guard import judge_guard, judge_libvirt, judge_proxmox, judge_vm
from vmguard.doctor.judge_host import judge_host
from vmguard.doctor.judge_mount import judge_mount, judge_mounts, kernel_version, renewals_fixed
from vmguard.doctor.judge_qemus import judge_qemus
from vmguard.doctor.judge_storage import judge_scratch, judge_share
from vmguard.query.answers import DescriptorsAnswer, DisarmedAnswer

_V4, _V6 = "addr=10.0.0.5", "addr=fd00::5"
_FSID, _SMALL = "3f2a9c11d0e84b7a:9be100d3c1a2f4e5", "0:1"

# -- the good state -------------------------------------------------------------------------------------------------

MOUNT = MountFacts(
    point="/srv/vm",
    source="nas:/vm",
    version="4.2",
    options=("rw", "vers=4.2", "hard", "proto=tcp", "local_lock=none"),
    device=50,
    lease=90.0,
    age=5000.0,
    reclaim_complete=1,
)
IDENTITY = IdentityFacts(
    name="hyp-a",
    machine="a" * 32,
    boot="boot-2",
    booted="2026-11-21T08:00:00Z",
    unique_id="0f1e",
    persistent="0f1e",
    persistent_in="/etc/modprobe.d/vmguard-nfs.conf",
    hardware="cafe",
    made_on="cafe",
)
HOST = HostFacts(
    identity=IDENTITY,
    uptime=90000.0,
    release="6.12.117",
    kernel="#1 SMP",
    clock_synchronised=True,
    recover_lost_locks=False,
)
SCRATCH = ScratchFacts(
    locked=True, conflict=True, sub_range=True, lock_requests=9, answer="", probes="SEEK", delegated=False
)
DISARMED = DisarmedAnswer(seconds=9, since="", reason="x", by="eva")
CONFINED = ConfinementFacts(1, (("deny_ptrace", False), ("virt_use_nfs", True)), ("libvirtd",))
FILES = DescriptorsAnswer(used=40, limit=65536, alarm=False)
FEW = DescriptorsAnswer(used=800, limit=1024, alarm=True)
GUARD = GuardFacts(version="1.0", own_version="1.0", enabled=True, units=(), descriptors=FILES, targets=1)
LIBVIRT = LibvirtFacts(
    version=(11, 3, 0), hooks=(("/etc/libvirt/hooks/qemu.d/50-vmguard", True, ""),), proof="called", running=True
)
STRANGE = DisbelievedFacts(9, "user 1", "/q", "web", "nobody names it")
QEMU = QemuFacts(pid=7, name="web", libvirt=True, image_locks=True)
PROXMOX = ProxmoxFacts(version=(9, 1), hooked=3)
VM = VmFacts("web", (DiskFacts("/srv/vm/web.raw", "/srv/vm/web.raw"),))


def all_findings(**bad: Any) -> list[Finding]:
    """The whole judgement, with some facts of the good state replaced."""
    host = bad.get("host", HOST)
    mount = bad.get("mount", MOUNT)
    return [
        *judge_host(host),
        *judge_confinement(bad.get("confined", CONFINED)),
        *judge_mounts(bad.get("mounts", [mount]), bad.get("others", ()), bad.get("absent", ())),
        *judge_mount(mount, host, bad.get("wishes", Wishes())),
        *judge_scratch(mount, bad.get("scratch", SCRATCH)),
        *judge_share(mount, bad.get("share", ShareFacts()), host.identity),
        *judge_guard(bad.get("guard", GUARD)),
        *judge_libvirt(bad.get("libvirt", LIBVIRT)),
        *judge_qemus(bad.get("qemus", [QEMU]), bad.get("doubted", ())),
        *judge_proxmox(bad.get("proxmox", PROXMOX)),
        *judge_vm(bad.get("vm", VM)),
    ]


def host(**identity: Any) -> HostFacts:
    return replace(HOST, identity=replace(IDENTITY, **identity))


def mount(*words: str, **facts: Any) -> MountFacts:
    """The good mount with some options replaced."""
    names = {word.partition("=")[0] for word in words} | ({"hard"} if {"soft", "softerr"} & set(words) else set())
    kept = tuple(word for word in MOUNT.options if word.partition("=")[0] not in names)
    version = next((word[5:] for word in words if word.startswith("vers=")), MOUNT.version)
    return replace(MOUNT, options=(*kept, *words), version=version, **facts)


def record(
    host: str = "hyp-b", machine: str = "b" * 32, boot: str = "boot-9", claimed: str = "2026-11-21T09:00:00Z"
) -> Any:
    return {"share": ShareFacts((RecordFacts(host, machine, boot, claimed),))}


def selinux(name: str, value: bool) -> dict[str, ConfinementFacts]:
    return {"confined": ConfinementFacts(1, ((name, value),))}


def modes(**paths: tuple[str, ...]) -> Any:
    return {"share": ShareFacts(modes=ModeFacts(**paths))}


def hook(executable: bool = True, missing: str = "") -> tuple[str, bool, str]:
    return ("/etc/libvirt/hooks/qemu.d/50-vmguard", executable, missing)


# -- the bad ones: check, level, words that must be said, facts --------------------------------------------------------

CEPH = Mount(1, 5, "/srv/c", "ceph", "mon:/", "rw")
OLD = replace(HOST, release="6.1.0-28-amd64", kernel="#1 SMP PREEMPT_DYNAMIC Debian 6.1.119-1 (2024-11-22)")
BAD: list[tuple[str, str, str, dict[str, Any]]] = [
    ("mount.nfs", "WARN", "nothing to guard|no NFS mount", {"mounts": []}),
    ("mount.version", "FAIL", "NFSv4.0", {"mount": mount("vers=4.0")}),
    ("mount.version", "FAIL", "never noticed", {"mount": mount("vers=3", lease=0.0)}),
    ("mount.hard", "FAIL", "soft", {"mount": mount("soft")}),
    ("mount.hard", "FAIL", "softerr", {"mount": mount("softerr")}),
    ("mount.local-locks", "FAIL", "nolock", {"mount": mount("nolock", "vers=3")}),
    ("mount.local-locks", "FAIL", "local_lock=all", {"mount": mount("local_lock=all")}),
    ("mount.transport", "FAIL", "UDP", {"mount": mount("proto=udp")}),
    ("mount.writable", "WARN", "read-only", {"mount": mount("ro")}),
    ("mount.lease", "WARN", "long wait", {"mount": mount(lease=600.0)}),
    ("mount.lease", "FAIL", "margin", {"wishes": Wishes(margin=80.0)}),
    (
        "mount.reconnect",
        "WARN",
        "18 s",
        {"mount": mount(lease=10.0), "host": replace(OLD, kernel="", release="6.1.176")},
    ),
    ("mount.pnfs", "WARN", "LAYOUT_FLEX_FILES", {"mount": mount(pnfs="LAYOUT_FLEX_FILES")}),
    ("mount.pnfs", "FAIL", "on kernel", {"mount": mount(pnfs="LAYOUT_FLEX_FILES"), "host": OLD}),
    (
        "mount.delegations",
        "WARN",
        "(EROFS)",
        {"scratch": replace(SCRATCH, delegated=True, stays="EROFS")},
    ),
    ("mount.early", "WARN", "120 s after boot", {"host": OLD, "mount": mount(age=OLD.uptime - 120)}),
    ("mount.two-ways", "WARN", "/mnt/again", {"mounts": [MOUNT, replace(MOUNT, point="/mnt/again", device=51)]}),
    ("mount.other", "WARN", "is a ceph file system", {"others": [OtherMountFacts("/srv/c", why_other(CEPH))]}),
    ("mount.absent", "WARN", "/etc/fstab", {"absent": [AbsentShareFacts("/srv/vm", "nas:/vm", "/etc/fstab")]}),
    ("storage.answers", "FAIL", "within 5 s", {"scratch": ScratchFacts(hung=5.0)}),
    ("storage.answers", "FAIL", "No space", {"scratch": ScratchFacts(error=("ENOSPC", "No space left"))}),
    ("storage.answers", "FAIL", "Stale", {"scratch": ScratchFacts(error=("ESTALE", "Stale file handle"))}),
    ("storage.lock", "FAIL", "no exclusive lock", {"scratch": ScratchFacts(locked=False)}),
    ("storage.lock", "FAIL", "same lock", {"scratch": replace(SCRATCH, conflict=False)}),
    ("storage.lock", "FAIL", "cannot be freed", {"scratch": replace(SCRATCH, sub_range=False)}),
    ("storage.lock", "FAIL", "reached the server", {"scratch": replace(SCRATCH, lock_requests=0)}),
    ("storage.lock", "FAIL", "EIO", {"scratch": replace(SCRATCH, answer="EIO")}),
    ("storage.probe", "WARN", "no READ went out", {"scratch": replace(SCRATCH, not_probed="no READ went out")}),
    ("storage.root", "WARN", "nobody", {"scratch": replace(SCRATCH, squashed="nobody")}),
    ("storage.root", "FAIL", "neither root", {"scratch": ScratchFacts(error=("EACCES", "Permission denied"))}),
    ("storage.foreign-writers", "FAIL", "b.qcow2", {"share": ShareFacts(unlocked_writes=("/srv/vm/b.qcow2",))}),
    ("storage.foreign-writers", "WARN", "could not be looked", {"share": ShareFacts(problem="it is too slow")}),
    ("storage.space", "WARN", "1.0% of its space", {"share": ShareFacts(free_space=0.01)}),
    ("storage.space", "WARN", "0.0% of its inodes", {"share": ShareFacts(free_inodes=0.0)}),
    ("storage.modes", "FAIL", "everybody may write to: /srv/vm, /srv/vm/a", modes(writable=("/srv/vm", "/srv/vm/a"))),
    ("storage.modes", "WARN", "a, b, c and 1 more", modes(readable=("a", "b", "c", "d"))),
    ("storage.modes", "WARN", "user 1000", modes(owned=("/srv/vm/a.qcow2 (user 1000)",))),
    ("storage.twins", "FAIL", "a clone", record("hyp-a", "a" * 32)),
    ("storage.twins", "WARN", "calls itself hyp-a", record("hyp-a")),
    ("storage.twins", "FAIL", "calls itself hyp-a", {**record("hyp-a"), "host": host(unique_id="", persistent="")}),
    ("storage.twins", "WARN", "machine id", record("hyp-b", "a" * 32)),
    ("host.recover-lost-locks", "FAIL", "is on", {"host": replace(HOST, recover_lost_locks=True)}),
    ("host.name", "FAIL", "localhost", {"host": host(name="localhost", unique_id="", persistent="")}),
    ("host.name", "WARN", "localhost", {"host": host(name="localhost")}),
    ("host.identity", "WARN", "the host name hyp-a", {"host": host(unique_id="", persistent="")}),
    ("host.identity", "WARN", "gone at the next boot", {"host": host(persistent="")}),
    ("host.identity", "WARN", "in force is the host name", {"host": host(unique_id="")}),
    ("host.identity", "FAIL", "clone", {"host": host(made_on="beef")}),
    ("host.clock", "WARN", "not synchronised", {"host": replace(HOST, clock_synchronised=False)}),
    ("host.clock", "WARN", "unknown", {"host": replace(HOST, clock_synchronised=None)}),
    ("host.nfs-server", "WARN", "/srv/vm by NFS", {"host": replace(HOST, exports=("/srv/vm",))}),
    ("host.nfs-server", "WARN", "as it is now", {"host": replace(HOST, exports=("/srv/vm",), in_grace=True)}),
    ("host.watchdog", "FAIL", "No such file", {"host": replace(HOST, watchdog="/dev/watchdog: No such file")}),
    ("host.ptrace", "FAIL", "ptrace_scope is 3", {"confined": ConfinementFacts(ptrace_scope=3)}),
    ("host.ptrace", "FAIL", "deny_ptrace", selinux("deny_ptrace", True)),
    ("host.selinux", "WARN", "virt_use_nfs", selinux("virt_use_nfs", False)),
    ("host.selinux", "WARN", "virt_hooks_unconfined", selinux("virt_hooks_unconfined", False)),
    ("guard.daemon", "FAIL", "not running", {"guard": GuardFacts(daemon="the daemon is not running")}),
    ("guard.daemon", "WARN", "0.9", {"guard": replace(GUARD, version="0.9")}),
    ("guard.armed", "WARN", "maintenance", {"guard": replace(GUARD, disarmed=DISARMED)}),
    ("guard.armed", "WARN", "on_at_risk", {"guard": replace(GUARD, lame=("watch.on_at_risk: ignore",))}),
    ("guard.descriptors", "WARN", "800 of 1024", {"guard": replace(GUARD, descriptors=FEW)}),
    ("guard.boot", "WARN", "does not start", {"guard": replace(GUARD, enabled=False)}),
    ("guard.units", "WARN", "no folder /x", {"guard": replace(GUARD, units=(UnitFacts("m", "", ("/x",)),))}),
    ("guard.units", "WARN", "exit-code", {"guard": replace(GUARD, units=(UnitFacts("vmguard.service", "exit-code"),))}),
    ("guard.config", "FAIL", "line 3", {"guard": replace(GUARD, config_problems=("x.yaml: line 3",))}),
    ("guard.notify", "WARN", "mode 0644", {"guard": replace(GUARD, untold=(("ops", "mode 0644", "chmod 600 /s"),))}),
    ("guard.vms", "FAIL", "without its locks", {"guard": replace(GUARD, unguarded=("web",))}),
    ("guard.vms", "FAIL", "frozen since", {"guard": replace(GUARD, troubled=(("web", "frozen since", "get nas up"),))}),
    ("guard.vms", "WARN", "weaker", {"guard": replace(GUARD, weaker=(("web", "not pinned"),))}),
    ("libvirt.hook", "FAIL", "not installed", {"libvirt": replace(LIBVIRT, hooks=())}),
    ("libvirt.hook", "FAIL", "twice", {"libvirt": replace(LIBVIRT, hooks=(hook(), hook()))}),
    ("libvirt.hook", "FAIL", "not executable", {"libvirt": replace(LIBVIRT, hooks=(hook(False),))}),
    ("libvirt.hook", "FAIL", "every start", {"libvirt": replace(LIBVIRT, hooks=(hook(missing="/usr/bin/py"),))}),
    ("libvirt.hook", "FAIL", "does not call", {"libvirt": replace(LIBVIRT, proof="not-called")}),
    ("libvirt.hook", "WARN", "could not be seen", {"libvirt": replace(LIBVIRT, proof="unknown")}),
    (
        "libvirt.apparmor",
        "FAIL",
        "/opt/py",
        {"confined": replace(CONFINED, profiles=("libvirtd",), barred=("/opt/py",))},
    ),
    ("libvirt.version", "WARN", "one hook only", {"libvirt": replace(LIBVIRT, version=(6, 0, 0))}),
    ("libvirt.windows", "FAIL", "is off", {"libvirt": replace(LIBVIRT, closed_windows=(("windows.qemu", "QEMU"),))}),
    ("qemu.locking", "WARN", "web (pid 7)", {"qemus": [replace(QEMU, image_locks=False)]}),
    ("qemu.believed", "WARN", "pid 9 (user 1, /q) looks like", {"doubted": [STRANGE]}),
    ("proxmox.hook", "FAIL", "starts unguarded", {"proxmox": replace(PROXMOX, unhooked=(("101", "web"),))}),
    ("proxmox.hook", "FAIL", "not executable", {"proxmox": replace(PROXMOX, script_problem="it is not executable")}),
    ("proxmox.hook", "WARN", "could not be read", {"proxmox": replace(PROXMOX, problem="no answer")}),
    ("proxmox.version", "WARN", "out of support", {"proxmox": replace(PROXMOX, version=(7, 4))}),
    ("disk.paths", "WARN", "2 names", {"vm": VmFacts("web", (DiskFacts("/a", "/a", links=2),))}),
    ("disk.paths", "FAIL", "Stale", {"vm": VmFacts("web", (DiskFacts("/a", "/a", problem="Stale handle"),))}),
    ("disk.guardable", "WARN", "block device", {"vm": replace(VM, unguarded=(("disk vdb", "a block device"),))}),
]


@pytest.mark.parametrize(("check", "level", "words", "facts"), BAD, ids=[f"{row[0]}: {row[2]}" for row in BAD])
def test_a_bad_state_is_found_with_its_reason_and_what_mends_it(
    check: str, level: str, words: str, facts: dict[str, Any]
) -> None:
    found = [finding for finding in all_findings(**facts) if finding.check == check and finding.level is not Level.OK]
    assert [(finding.level, any(word in finding.text for word in words.split("|"))) for finding in found] == [
        (level, True)
    ]
    assert found[0].why
    assert found[0].mend or "could not be looked" in words


def test_the_good_state_has_no_finding_but_ok() -> None:
    assert [finding for finding in all_findings() if finding.level is not Level.OK] == []
    assert status_of(all_findings()) is Status.OK


def test_every_check_of_the_catalogue_has_a_bad_state_here_and_is_ok_in_the_good_one() -> None:
    of_hosts = {check for check in CHECKS if not check.startswith("server.")}  # those are in test_servers.py
    # without any mount there is nothing of which "it is NFS" could be said
    assert {row[0] for row in BAD} == of_hosts == {finding.check for finding in all_findings()} | {"mount.nfs"}


def test_the_exit_status_is_that_of_the_worst_finding() -> None:
    assert status_of(all_findings(host=host(unique_id="", persistent=""))) is Status.WARNING
    assert status_of(all_findings(mount=mount("soft"))) is Status.CRITICAL


def test_a_known_trap_that_vmguard_covers_is_told_and_is_no_finding() -> None:
    found = [f for f in all_findings(libvirt=replace(LIBVIRT, version=(9, 0, 0))) if f.check == "libvirt.version"]
    assert [(finding.level, "virsh destroy" in finding.text) for finding in found] == [(Level.OK, True)]


def test_a_renamed_or_rebooted_host_is_no_twin() -> None:
    """Claims from before this boot were this host's own, whatever it was called then."""
    for facts in (
        record("hyp-a", "a" * 32, "boot-1", "2026-11-20T09:00:00Z"),
        record("old-name", "a" * 32, "boot-1", "2026-11-20T09:00:00Z"),
    ):
        assert status_of(all_findings(**facts)) is Status.OK


def test_other_hosts_and_own_claims_are_no_twins() -> None:
    assert status_of(all_findings(**record())) is Status.OK
    assert status_of(all_findings(**record("hyp-a", "a" * 32, "boot-2"))) is Status.OK


@pytest.mark.parametrize(
    ("release", "kernel", "version", "fixed"),
    [
        ("6.1.0-28-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.119-1 (2024-11-22)", (6, 1, 119), False),
        ("6.1.0-42-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.159-1 (2025-12-30)", (6, 1, 159), True),
        ("6.12.59", "#1 SMP", (6, 12, 59), True),
        ("6.12.43+deb13-amd64", "#1 SMP Debian 6.12.43-1", (6, 12, 43), False),
        ("6.8.12-4-pve", "#1 SMP PMX", (6, 8, 12), False),
        ("6.18-rc1", "", (6, 18, 0), True),
        ("weird", "", None, False),
    ],
)
def test_the_kernels_real_version(release: str, kernel: str, version: tuple[int, ...] | None, fixed: bool) -> None:
    facts = replace(HOST, release=release, kernel=kernel)
    assert kernel_version(facts) == version
    assert renewals_fixed(facts) is fixed


def two_ways(one: MountFacts, other: MountFacts) -> list[str]:
    return [finding.text for finding in judge_mounts([one, other]) if finding.level is Level.WARN]


def at(source: str, option: str, device: int, fsid: str = "") -> MountFacts:
    return replace(MOUNT, point=f"/mnt/{device}", source=source, options=("rw", option), device=device, fsid=fsid)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (at("nas:/vm", _V4, 1), at("10.0.0.5:/vm", _V4, 2)),
        (at("nas:/vm", _V4, 1), at("nas.example.org:/vm/", "addr=::ffff:10.0.0.5", 2)),
        (at("nas:/vm", _V6, 1), at("[fd00:0::5]:/vm", _V6, 2)),
        (at("[fd00::5]:/vm", "rw", 1), at("[fd00:0:0::5]:/vm", "rw", 2)),
        (at("nas:/", _V4, 1), at("10.0.0.5:/", _V4, 2)),
        (at("NAS.example.org:/vm", "rw", 1), at("nas.example.org.:/vm", "port=2049", 2)),
        (at("nas:/vm", _V4, 1, _FSID), at("[fd00::5]:/vm", _V6, 2, _FSID)),
    ],
)
def test_one_server_under_two_names_is_one_share(one: MountFacts, other: MountFacts) -> None:
    (text,) = two_ways(one, other)
    assert "2 separate file systems: /mnt/1 (vers=4.2), /mnt/2 (vers=4.2)" in text
    assert {one.source.rstrip("/"), other.source.rstrip("/")} <= set(text.split(" is mounted")[0].split(" alias "))
    assert two_ways(one, replace(other, device=1)) == [], "control: it is one file system to the kernel, too"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (at("nas:/vm", _V4, 1), at("other:/vm", "addr=10.0.0.6", 2)),
        (at("nas:/vm", _V4, 1), at("nas:/iso", _V4, 2)),
        (at("localhost:/vm", "port=20490", 1), at("localhost:/vm", "port=20491", 2)),
        (at("nas:/", _V4, 1), at("nas:/vm", _V4, 2)),
        (at("nas:/vm", _V4, 1, _SMALL), at("other:/vm", "addr=10.0.0.6", 2, _SMALL)),
        (at("[fe80::5%eth0]:/vm", "addr=fe80::5%eth0", 1), at("[fe80::5%eth1]:/vm", "addr=fe80::5%eth1", 2)),
    ],
)
def test_control_two_shares_are_two(one: MountFacts, other: MountFacts) -> None:
    assert two_ways(one, other) == []


@pytest.mark.parametrize(
    ("source", "reach", "owner"),
    [
        ("nas:/vm", "ping -c 3 nas; rpcinfo -t nas nfs 4", "chown libvirt-qemu /vm,"),
        ("[fd00::5]:/vm", "ping -c 3 fd00::5; rpcinfo -T tcp6 fd00::5 nfs 4", "chown libvirt-qemu /vm,"),
        ("[fe80::5%eth0]:/", "ping -c 3 fe80::5%eth0; rpcinfo -T tcp6 fe80::5%eth0 nfs 4", "chown libvirt-qemu /,"),
        ("nas:/a:/b c", "ping -c 3 nas; rpcinfo -t nas nfs 4", "chown libvirt-qemu '/a:/b c',"),
    ],
)
def test_the_hints_know_ipv6(source: str, reach: str, owner: str) -> None:
    mount = replace(MOUNT, source=source, version="3", options=("rw", "vers=3", "soft"))
    assert judge_scratch(mount, ScratchFacts(hung=5.0))[0].mend == reach
    squashed = judge_scratch(mount, ScratchFacts(error=("EACCES", "permission denied")))
    assert owner in squashed[-1].mend
    for finding in judge_mount(mount, HOST, Wishes()):
        if " mount -t nfs" in finding.mend:
            assert source in shlex.split(finding.mend.partition("#")[0]), "a shell expands brackets"


def commands_of_ours(mend: str) -> list[list[str]]:
    """The vmguard commands in what mends a finding; behind # stands a word for people."""
    parts = re.split(r"&&|;", mend.partition("#")[0].partition(" on ")[0])
    return [shlex.split(part)[1:] for part in parts if part.strip().startswith("vmguard ")]


@pytest.mark.parametrize(
    ("check", "facts"), [(row[0], row[3]) for row in BAD], ids=[f"{row[0]}: {row[2]}" for row in BAD]
)
def test_every_command_of_ours_that_mends_is_one_that_there_is(check: str, facts: dict[str, Any]) -> None:
    parsers = all_parsers()
    for finding in all_findings(**facts):
        for name, *words in commands_of_ours(finding.mend):
            parsers[name].parse_args([word for word in words if word not in ("--json", "-v")])  # raises UsageError
