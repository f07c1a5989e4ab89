"""Enrolment on Proxmox: a hookscript that is there is never lost, an undo is exact, nothing is ever half done."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pve.inside.hooks import HookFailed, exec_hookscript
from tests.pve.place import OTHER, Place
from tests.support.processes import track
from vmguard.adapters.linux import mounts
from vmguard.adapters.proxmox import chained_hookscripts, snippets
from vmguard.adapters.proxmox.chained_hookscripts import Script
from vmguard.errors import VmguardError

pytestmark = pytest.mark.process

OURS = "hookscript: local:snippets/vmguard"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    with place.guard:
        yield place


def states(answer: dict[str, object]) -> dict[str, str]:
    steps = answer["steps"]
    assert isinstance(steps, list)
    return {step["step"]: step["state"] for step in steps}


# -- there and back --------------------------------------------------------------------------------------------------


def test_enable_and_disable_leave_everything_as_it_was(place: Place) -> None:
    place.script()
    plain = place.vm("100")
    chained = place.vm("101", "hookscript: store:snippets/own.sh")
    before = place.everything()
    enabled = place.json("enable", "proxmox", "--all")
    assert states(enabled) == {
        "daemon": "already",
        "hook": "done",
        "vm 100": "done",
        "vm 101": "done",
        "other nodes": "unsure",
    }
    assert OURS in plain.read_text()
    assert OURS in chained.read_text()
    path = place.store / "snippets/own.sh"
    assert (place.pve / "vmguard.cfg").read_text() == f"101 store:snippets/own.sh {path}\n"
    assert os.access(place.snippets / "vmguard", os.X_OK)
    again = place.everything()
    assert set(states(place.json("enable", "proxmox", "--all")).values()) == {"already", "unsure"}
    assert place.everything() == again
    disabled = place.json("disable", "proxmox", "--all")
    assert states(disabled) == {"vm 100": "done", "vm 101": "done", "hook": "done"}
    gone = {str(place.pve / "priv"), str(place.pve / "priv/lock")}  # Proxmox has them always
    assert {name: data for name, data in place.everything().items() if name not in gone} == before
    assert set(states(place.json("disable", "proxmox", "--all")).values()) == {"already"}


def test_a_dry_run_says_all_of_it_and_does_nothing(place: Place) -> None:
    place.script()
    place.vm("100", "hookscript: store:snippets/own.sh")
    before = place.everything()
    answer = place.vmguard("enable", "proxmox", "--all", "--dry-run")
    assert (
        "VM 100 ('vm100') would be enrolled, and its own hookscript store:snippets/own.sh is run behind" in answer.out
    )
    assert place.everything() == before
    assert place.calls == []
    place.vmguard("enable", "proxmox", "--all")
    before = place.everything()
    calls = place.calls
    answer = place.vmguard("disable", "proxmox", "--all", "--dry-run")
    assert "would no longer be enrolled and has its own hookscript store:snippets/own.sh back" in answer.out
    assert (place.everything(), place.calls) == (before, calls)


def test_from_then_on_each_start_claims_and_the_old_hookscript_runs_behind(place: Place) -> None:
    place.script(does='echo "own $1 $2"')
    place.vm("100", "hookscript: store:snippets/own.sh")
    place.vmguard("enable", "proxmox", "--vmid", "100")
    env = {"VMGUARD_RUN_DIR": str(place.guard.run_dir), "VMGUARD_PVE_DIR": str(place.pve), "PATH": os.environ["PATH"]}
    hook = str(place.snippets / "vmguard")
    assert exec_hookscript(hook, "100", "pre-start", True, env) == "own 100 pre-start\n"
    assert place.guard.states() == {"vm100": "claimed"}
    place.script(does="exit 7")
    with pytest.raises(HookFailed, match="exit code 7"):
        exec_hookscript(hook, "100", "pre-start", True, env)


def test_a_vm_that_runs_already_is_guarded_as_it_is_and_known_by_its_vmid(place: Place) -> None:
    place.vm("100")
    disk = place.store / "images/100/vm-100-disk-0.raw"
    pid_file = place.folder / "qemu-server/100.pid"
    pid_file.parent.mkdir()
    code = "import os, sys; os.open(sys.argv[1], os.O_RDWR); print(flush=True); sys.stdin.read()"
    words = ["kvm", "-IS", "-c", code, str(disk), "-name", "web", "-pidfile", str(pid_file), "-drive", f"file={disk}"]
    with track(
        subprocess.Popen(words, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    ) as qemu:
        assert qemu.stdout is not None
        qemu.stdout.readline()
        pid_file.write_text(f"{qemu.pid}\n")
        answer = place.json("enable", "proxmox", "--vmid", "100", "--adopt")
        (text,) = [step["text"] for step in answer["steps"] if step["step"] == "adopt"]
        assert text == "1 of them run, and are guarded"
        (vm,) = place.guard.status()
        assert (vm["hypervisor"], vm["uuid"], vm["name"], vm["pid"]) == ("proxmox", "100", "web", qemu.pid)
        assert [file["guard"] for file in vm["files"]] == ["pinned"]
        qemu.kill()


# -- which VMs --------------------------------------------------------------------------------------------------------


def test_all_are_those_with_disks_that_several_hosts_may_open(place: Place) -> None:
    place.storages(f"dir: store\n\tpath {place.store}\n\tshared 1\n\nlvm: blocks\n\tvgname x\n")
    place.vm("100")
    place.vm("101", "scsi0: local:101/vm-101-disk-0.raw", disk=False)
    place.vm("102", "scsi0: blocks:vm-102-disk-0", disk=False)
    place.vm("103", "ide2: store:iso/x.iso,media=cdrom", disk=False)
    place.vm("104", "template: 1")
    place.vm("105", "scsi0: nowhere:105/a.raw", disk=False)  # it cannot start; once it can, it shall be guarded
    found = states(place.json("enable", "proxmox", "--all", "--dry-run"))
    assert {step for step in found if step.startswith("vm ")} == {"vm 100", "vm 104", "vm 105"}


def test_those_of_a_storage_and_those_that_are_named(place: Place) -> None:
    place.vm("100")
    place.vm("101", "scsi0: local:101/vm-101-disk-0.raw", disk=False)
    assert "vm 101" not in states(place.json("enable", "proxmox", "--storage", "store", "--dry-run"))
    assert "vm 100" in states(place.json("enable", "proxmox", "--storage", "store", "--dry-run"))
    assert "vm 101" in states(place.json("enable", "proxmox", "--vmid", "101", "--dry-run"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--vmid", "999"], "this cluster has no VM '999'"),
        (["--storage", "stor"], "there is no storage 'stor'; did you mean 'store'?"),
        ([], "no VM given"),
    ],
)
def test_what_names_nothing_is_refused_before_anything_is_done(place: Place, words: list[str], text: str) -> None:
    place.vm("100")
    before = place.everything()
    answer = (
        place.vmguard("enable", "proxmox", "--vmid", "100", *words) if words else place.vmguard("enable", "proxmox")
    )
    assert answer.status == 3
    assert text in answer.err
    assert (place.everything(), place.calls) == (before, [])


def test_vms_of_other_nodes_are_named_and_left_to_them(place: Place) -> None:
    place.vm("100")
    there = place.vm("101", node=OTHER)
    answer = place.json("enable", "proxmox", "--all")
    assert answer["exit"] == 1
    (text,) = [step["text"] for step in answer["steps"] if step["step"] == f"node {OTHER}"]
    assert "vmguard enable proxmox --vmid 101" in text
    assert OURS not in there.read_text()
    there.write_text(f"{OURS}\nname: x\n")
    kept = place.json("disable", "proxmox", "--all")
    (text,) = [step["text"] for step in kept["steps"] if step["step"] == "hook"]
    assert "stays: VM 101" in text
    assert (place.snippets / "vmguard").exists(), "VM 101 may come to this node, and would not start"


def test_options_of_proxmox_are_no_options_of_libvirt(place: Place) -> None:
    answer = place.vmguard("enable", "libvirt", "--vmid", "100")
    assert answer.status == 2
    assert "belong to proxmox" in answer.err


# -- nothing half done -------------------------------------------------------------------------------------------------


def test_without_a_daemon_no_start_is_made_to_depend_on_it(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.vm("100")
    before = place.everything()
    answer = place.vmguard("enable", "proxmox", "--all")
    assert answer.status == 3
    assert "with the hookscript set no VM could start" in answer.err
    assert (place.everything(), place.calls) == (before, [])


@pytest.mark.parametrize("trouble", ["locked", "busy", "changed", "no qm", "crash"])
def test_a_vm_that_qm_does_not_change_is_as_it_was_and_the_others_are_done(place: Place, trouble: str) -> None:
    place.script()
    path = place.vm("100", "hookscript: store:snippets/own.sh", *(["lock: backup"] if trouble == "locked" else []))
    other = place.vm("101")
    before = path.read_bytes()
    real = (place.folder / "bin/qm").read_text().splitlines()[-1]
    if trouble == "busy":
        (place.folder / "flocks").mkdir()
        with open(place.folder / "flocks/lock-100.conf", "w") as busy:
            fcntl.flock(busy, fcntl.LOCK_EX)
            answer = place.vmguard("enable", "proxmox", "--all")
    else:
        if trouble == "changed":  # somebody else is faster than qm
            place.qm(f'[ "$2" = 101 ] || echo "onboot: 1" >> {path}\n{real}')
            before += b"onboot: 1\n"
        elif trouble == "no qm":
            place.qm(f'[ "$2" = 101 ] || exec /nowhere\n{real}')
        elif trouble == "crash":
            place.qm(f'[ "$2" = 101 ] || kill -9 $$\n{real}')
        answer = place.vmguard("enable", "proxmox", "--all")
    words = {
        "locked": "VM is locked (backup)",
        "busy": "got timeout",
        "changed": "detected modified configuration",
        "no qm": "qm set 100",
        "crash": "exit status -9",
    }[trouble]
    assert answer.status == 2
    assert "VM 100 ('vm100') is as it was" in answer.out
    assert words in answer.out
    assert path.read_bytes() == before
    assert not (place.pve / "vmguard.cfg").exists(), "nothing is remembered of a VM that is not enrolled"
    assert OURS in other.read_text()


def test_a_configuration_that_is_none_leaves_the_others_to_be_done(place: Place) -> None:
    place.conf("099").write_bytes(b"")  # no VMID
    place.conf("100").write_bytes(bytes(9))
    good = place.vm("101")
    answer = place.json("enable", "proxmox", "--all")
    assert states(answer)["vm 100"] == "unsure"
    assert OURS in good.read_text()


def test_a_qm_that_did_it_and_failed_to_say_so_has_done_it(place: Place) -> None:
    place.script()
    path = place.vm("100", "hookscript: store:snippets/own.sh")
    real = (place.folder / "bin/qm").read_text().splitlines()[-1].removeprefix("exec ")
    place.qm(f"{real}\nexit 255")
    answer = place.vmguard("enable", "proxmox", "--vmid", "100")
    assert "VM 100 ('vm100') is enrolled" in answer.out
    assert OURS in path.read_text()
    assert "store:snippets/own.sh" in (place.pve / "vmguard.cfg").read_text()


@pytest.mark.parametrize("moment", ["before qm", "behind qm"])
def test_killed_in_the_middle_the_old_hookscript_is_not_lost(place: Place, moment: str) -> None:
    """SIGKILL to enable around its one call of qm: the VM has the one or the other, and no start loses the script."""
    place.script(does="echo own")
    path = place.vm("100", "hookscript: store:snippets/own.sh")
    real = (place.folder / "bin/qm").read_text().splitlines()[-1].removeprefix("exec ")
    place.qm(f"{real}\nkill -9 $PPID" if moment == "behind qm" else "kill -9 $PPID")
    assert place.vmguard("enable", "proxmox", "--vmid", "100").status == -9
    enrolled = OURS in path.read_text()
    assert enrolled is (moment == "behind qm")
    assert "100 store:snippets/own.sh" in (place.pve / "vmguard.cfg").read_text()
    place.qm(real)
    assert place.vmguard("enable", "proxmox", "--vmid", "100").status == 1  # the other nodes
    assert place.vmguard("disable", "proxmox", "--vmid", "100").status == 0
    assert path.read_text() == "hookscript: store:snippets/own.sh\nname: vm100\nscsi0: store:100/vm-100-disk-0.raw\n"
    assert not (place.pve / "vmguard.cfg").exists()


def test_a_script_of_a_vm_that_is_gone_is_never_given_to_a_new_one(place: Place) -> None:
    place.script()
    place.vm("100", "hookscript: store:snippets/own.sh")
    place.vm("101", "hookscript: store:snippets/own.sh")
    place.vmguard("enable", "proxmox", "--all")
    place.vm("100")  # destroyed, and made anew
    place.conf("101").unlink()
    place.vmguard("enable", "proxmox", "--vmid", "100")
    assert "100" not in chained_hookscripts.read(str(place.pve))
    assert states(place.json("disable", "proxmox", "--all"))["vmguard.cfg"] == "done"
    assert not (place.pve / "vmguard.cfg").exists()


def test_somebody_elses_file_of_that_name_is_not_touched(place: Place) -> None:
    place.vm("100")
    place.snippets.mkdir(parents=True)
    (place.snippets / "vmguard").write_text("#!/bin/sh\nexit 0\n")
    before = place.everything()
    answer = place.vmguard("enable", "proxmox", "--all")
    assert answer.status == 3
    assert "somebody else's" in answer.err
    assert place.everything() == before
    assert "no hookscript of vmguard" in place.vmguard("disable", "proxmox", "--hook-only").out


def test_an_older_hookscript_of_ours_is_replaced(place: Place) -> None:
    place.vmguard("enable", "proxmox", "--hook-only")
    hook = place.snippets / "vmguard"
    good = hook.read_text()
    hook.write_text(good + "# of an older version\n")
    assert "replaced by this version's" in place.vmguard("enable", "proxmox", "--hook-only").out
    assert hook.read_text() == good
    assert os.listdir(place.snippets) == ["vmguard"]


def test_the_packages_own_file_is_linked_so_that_an_upgrade_renews_it(tmp_path: Path) -> None:
    packaged, path = tmp_path / "packaged", tmp_path / "snippets/vmguard"
    packaged.write_text("# vmguard: the hookscript\n")
    packaged.chmod(0o755)
    snippets.install(str(path), "# vmguard: the hookscript\n", str(packaged))
    assert path.readlink() == packaged
    packaged.unlink()
    assert snippets.what_is_there(str(path), str(packaged)) == snippets.OURS
    assert not snippets.is_current(str(path), "# vmguard: the hookscript\n")
    snippets.install(str(path), "# vmguard: the hookscript\n", str(packaged))
    assert not path.is_symlink()
    assert os.access(path, os.X_OK)


def test_the_hookscript_is_never_put_on_a_share() -> None:
    table = [
        mounts.Mount(1, 1, "/", "ext4", "/dev/sda1", "rw"),
        mounts.Mount(2, 2, "/var/lib/vz", "nfs4", "nas:/x", ""),
    ]
    assert "lies on NFS (nas:/x)" in snippets.why_not_here("/var/lib/vz/snippets", table)
    assert snippets.why_not_here("/var/lib/vz2/snippets", table) == ""


# -- the cluster's file -----------------------------------------------------------------------------------------------


def test_two_nodes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from vmguard.adapters.proxmox import chained_hookscripts as c\n"
        "for n in range(20): c.change(sys.argv[1], {sys.argv[2] + str(n): c.Script('a:snippets/b', '/b c')})"
    )
    nodes = [track(subprocess.Popen([sys.executable, "-c", code, str(tmp_path), digit])) for digit in ("10", "20")]
    assert [node.wait(30) for node in nodes] == [0, 0]
    assert len(chained_hookscripts.read(str(tmp_path))) == 40
    assert chained_hookscripts.read(str(tmp_path))["100"] == Script("a:snippets/b", "/b c")
    assert sorted(os.listdir(tmp_path)) == ["priv", "vmguard.cfg"]


def test_a_lock_that_nobody_gives_back_is_named(tmp_path: Path) -> None:
    (tmp_path / "priv/lock/vmguard").mkdir(parents=True)
    with pytest.raises(VmguardError, match="another node is changing"):
        chained_hookscripts.change(str(tmp_path), {"100": None}, 0.5)
    threading.Timer(0.2, (tmp_path / "priv/lock/vmguard").rmdir).start()  # pmxcfs takes it back
    began = time.monotonic()
    chained_hookscripts.change(str(tmp_path), {"100": Script("a:snippets/b", "/b")}, 5.0)
    assert time.monotonic() - began >= 0.2


def test_without_quorum_nothing_is_written(place: Place) -> None:
    place.script()
    path = place.vm("100", "hookscript: store:snippets/own.sh")
    (place.pve / "priv").write_text("")  # no folder can be made in it, not even by root
    answer = place.vmguard("enable", "proxmox", "--vmid", "100")
    assert "VM 100 ('vm100') is as it was" in answer.out
    assert "quorum" in answer.out
    assert place.calls == []
    assert OURS not in path.read_text()


def test_the_digest_is_the_one_of_the_file_as_proxmox_makes_it(place: Place) -> None:
    path = place.vm("100")
    digest = hashlib.sha1(path.read_bytes()).hexdigest()
    place.vmguard("enable", "proxmox", "--vmid", "100")
    assert place.calls == [f"set 100 --hookscript local:snippets/vmguard --digest {digest}"]
