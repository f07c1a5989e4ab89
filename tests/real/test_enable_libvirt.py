"""`vmguard enable libvirt` and `disable`, against a real libvirtd: what counts is what libvirt does afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.guard import eventually, make_disk
from tests.support.libvirt_host import Domain, LibvirtHost
from vmguard.cli.hook_script import text as hook_text

pytestmark = pytest.mark.real

HOOKS = "etc/libvirt/hooks"
HOOK = f"{HOOKS}/qemu.d/50-vmguard"


@pytest.fixture(scope="module")
def bare_host() -> Iterator[LibvirtHost]:
    """libvirt and vmguard's daemon as after the installation of both: nothing connects them."""
    with LibvirtHost(guarded=False) as host:
        host.start_daemon()
        yield host


@pytest.fixture
def bare(bare_host: LibvirtHost) -> Iterator[LibvirtHost]:
    yield bare_host
    bare_host.vmguard("disable", "libvirt")
    bare_host.clear()
    for name in ("qemu", "qemu.d/10-theirs"):
        (bare_host.root / HOOKS / name).unlink(missing_ok=True)


@pytest.fixture
def web(bare: LibvirtHost) -> Domain:
    disks = bare.folder / "disks"
    disks.mkdir()
    return bare.define(Domain("web", make_disk(disks / "web.raw")))


def steps(host: LibvirtHost, *words: str) -> tuple[int, dict[str, str]]:
    """The exit status, and the state of each step."""
    answer = host.vmguard(*words, "--json")
    said: dict[str, Any] = json.loads(answer.out)
    assert "steps" in said, said
    return answer.status, {step["step"]: step["state"] for step in said["steps"]}


def tree(host: LibvirtHost) -> dict[str, bytes]:
    """Everything below the folder of hooks."""
    top = host.root / HOOKS
    return {str(path.relative_to(top)): path.read_bytes() if path.is_file() else b"" for path in sorted(top.rglob("*"))}


def guarded(host: LibvirtHost, domain: Domain) -> bool:
    """Start the VM as an admin would, and look whether this was a guarded start."""
    host.virsh("start", domain.uuid)
    found = [vm["name"] for vm in host.status()]
    host.virsh("destroy", domain.uuid)
    assert eventually(lambda: host.status() == [])
    return found == [domain.name]


def test_from_a_bare_host_to_a_guarded_start_and_back_with_nothing_left(bare: LibvirtHost, web: Domain) -> None:
    before = tree(bare)
    assert not guarded(bare, web)
    assert steps(bare, "enable", "libvirt") == (
        0,
        {"daemon": "already", "hook": "done", "reload": "done", "proof": "done", "vms": "already"},
    )
    assert guarded(bare, web)
    assert steps(bare, "disable", "libvirt") == (0, {"hook": "done", "take-up": "done", "proof": "done"})
    assert not guarded(bare, web)
    assert tree(bare) == before


def test_twice_is_once(bare: LibvirtHost) -> None:
    assert steps(bare, "enable", "libvirt")[0] == 0
    before = tree(bare)
    status, states = steps(bare, "enable", "libvirt")
    assert (status, states["hook"], states["proof"]) == (0, "already", "done")
    assert "reload" not in states, "a libvirt that calls the hook already needs no signal"
    assert tree(bare) == before
    steps(bare, "disable", "libvirt")
    assert steps(bare, "disable", "libvirt") == (0, {"hook": "already", "take-up": "done", "proof": "done"})


def test_a_dry_run_changes_nothing(bare: LibvirtHost) -> None:
    before = tree(bare)
    assert steps(bare, "enable", "libvirt", "--dry-run")[1]["hook"] == "would"
    assert tree(bare) == before
    steps(bare, "enable", "libvirt")
    before = tree(bare)
    assert steps(bare, "disable", "libvirt", "--dry-run")[1]["hook"] == "would"
    assert tree(bare) == before


def test_another_programs_hooks_go_on_and_stay(bare: LibvirtHost, web: Domain) -> None:
    heard = bare.folder / "heard"
    for name in ("qemu", "qemu.d/10-theirs"):
        path = bare.root / HOOKS / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\necho {path.name} "$1" "$2" >> {heard}\n')
        path.chmod(0o755)
    before = tree(bare)
    assert steps(bare, "enable", "libvirt")[0] == 0
    assert guarded(bare, web)
    assert {"qemu web prepare", "10-theirs web prepare"} <= set(heard.read_text().splitlines())
    assert steps(bare, "disable", "libvirt")[0] == 0
    assert tree(bare) == before, "a folder that was there before stays, and so does everything in it"


def test_a_hook_that_an_admin_put_there_by_hand_is_not_doubled(bare: LibvirtHost, web: Domain) -> None:
    hook = bare.root / HOOKS / "qemu"
    hook.write_text(hook_text("libvirt"))
    hook.chmod(0o755)
    assert steps(bare, "enable", "libvirt")[0] == 0
    assert not (bare.root / HOOK).exists()
    assert guarded(bare, web), "called twice it would refuse its own claim"


def test_negative_control_a_hook_that_libvirt_may_not_execute_is_no_proof(bare: LibvirtHost) -> None:
    """The file is there, and libvirt goes past it without a word: enable sees that and mends it."""
    assert steps(bare, "enable", "libvirt")[0] == 0
    (bare.root / HOOK).chmod(0o644)
    assert "NOT call" in proof(bare)
    status, states = steps(bare, "enable", "libvirt")
    assert (status, states["hook"], states["proof"]) == (0, "done", "done")


def test_negative_control_a_hook_that_lies_where_libvirt_does_not_look_fails(bare: LibvirtHost) -> None:
    """With another folder configured the file is installed, and the proof says that libvirt goes past it."""
    elsewhere: Path = bare.root / "etc/vmguard/vmguard.yaml"
    elsewhere.write_text(f"libvirt: {{hooks_dir: {bare.folder}/hooks}}")
    try:
        status, states = steps(bare, "enable", "libvirt")
        assert (status, states["hook"], states["proof"]) == (2, "done", "failed")
        assert steps(bare, "disable", "libvirt")[0] == 0
        assert not (bare.folder / "hooks").exists()
    finally:
        elsewhere.unlink()


def test_vms_that_run_already_are_named_and_adopted_when_wanted(bare: LibvirtHost, web: Domain) -> None:
    bare.virsh("start", web.uuid)
    pid = bare.qemu_pid(web)
    status, states = steps(bare, "enable", "libvirt")
    assert (status, states["vms"]) == (1, "unsure")
    status, states = steps(bare, "enable", "libvirt", "--adopt")
    assert (status, states["vms"]) == (0, "done")
    assert [vm["name"] for vm in bare.status()] == ["web"]
    answer = bare.vmguard("disable", "libvirt")
    assert "still guarded until they end: 'web'" in answer.out
    assert bare.qemu_pid(web) == pid
    assert [vm["name"] for vm in bare.status()] == ["web"]


def test_without_a_daemon_nothing_is_installed(bare: LibvirtHost) -> None:
    """With the hook in place and no daemon no VM of this host could start any more."""
    (bare.root / "etc/vmguard/vmguard.yaml").write_text("daemon: {run_dir: /run/nobody-here}")
    try:
        before = tree(bare)
        answer = bare.vmguard("enable", "libvirt")
        assert answer.status == 3
        assert "no VM could start" in answer.err
        assert "systemctl enable --now vmguard.socket" in answer.err
        assert tree(bare) == before
    finally:
        (bare.root / "etc/vmguard/vmguard.yaml").unlink()


def test_the_vm_of_the_proof_never_runs_and_leaves_nothing(bare: LibvirtHost) -> None:
    steps(bare, "enable", "libvirt")
    steps(bare, "disable", "libvirt")
    assert "vmguard-proof" not in bare.virsh("list", "--all", "--name").out
    assert bare.status() == []


def proof(host: LibvirtHost) -> str:
    """libvirt's answer to a VM that only the hook can refuse in these words."""
    code = "from vmguard.adapters.libvirt.hook_file import prove; p = prove(); print(p.answer, p.words)"
    wrapper = (host.folder / "vmguard").read_text().replace('-m vmguard "$@"', f'-c "{code}"')
    script = host.folder / "prove"
    script.write_text(wrapper)
    script.chmod(0o755)
    said = host.run(str(script)).out
    return "libvirt does NOT call it: " + said if said.startswith("not-called") else said
