"""The control groups of VMs: only what root can have made at the root of the tree is one."""

from __future__ import annotations

import pytest

from vmguard.core.sources.vm_scope import VmScope, scope_in

_WEB = "/machine.slice/machine-qemu\\x2d3\\x2dweb.scope"


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        (_WEB, VmScope(_WEB, "qemu-3-web")),
        (_WEB + "/libvirt/emulator", VmScope(_WEB, "qemu-3-web")),
        ("/machine.slice/machine-gold.slice" + _WEB.removeprefix("/machine.slice"), None),
        ("/machine/qemu-3-web.libvirt-qemu/vcpu0", VmScope("/machine/qemu-3-web.libvirt-qemu", "qemu-3-web")),
        ("/qemu.slice/100.scope", VmScope("/qemu.slice/100.scope", vmid="100")),
    ],
)
def test_the_group_of_a_vm_is_known(path: str, scope: VmScope | None) -> None:
    for text in (f"0::{path}\n", f"9:memory:/\n1:name=systemd:{path}\n0::/\n", f"3:cpu,cpuacct:{path}\n"):
        found = scope_in(text)
        if scope is None:  # an admin's own partition
            assert found is not None
            assert (found.path, found.machine) == (path, "qemu-3-web")
        else:
            assert found == scope


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/user.slice/user-1000.slice/user@1000.service" + _WEB,
        "/system.slice/docker-0.scope/qemu.slice/100.scope",
        "/../../machine.slice",
        "/machine.slice/machine-lxc\\x2d3\\x2dweb.scope",
        "/machine.slice/libvirtd.service",
        "/qemu.slice/99.scope",
        "/qemu.slice/100.scope.d",
        "/qemu.slice",
        "/system.slice/libvirtd.service",
        # a user may make groups in his part of the tree, with all but a newline in their names
        *(f"/user.slice/user-1000.slice/user@1000.service/a{end}0::{_WEB}" for end in "\r\v\f\x1c\x1d\x1e\x85\u2028"),
    ],
)
def test_negative_control_what_a_user_can_make_is_none(path: str) -> None:
    assert scope_in(f"1:name=systemd:{path}\n0::{path}\n") is None
    assert scope_in("") is None


@pytest.mark.parametrize(
    ("machine", "name", "same"),
    [
        ("qemu-3-web", "web", True),
        ("qemu-3-web", "webb", False),
        ("qemu-3-webb", "web", False),
        ("qemu-3-web-1", "web-1", True),
        ("qemu-13-web", "3-web", False),
        ("qemu-3-ab", "a & b", True),
        ("qemu-3-w.b_x", "w.b_x", True),
        ("qemu-embed-0011aabb-3-web", "web", True),
        ("qemu-3-" + 57 * "a", 90 * "a", True),
        ("qemu-3-" + 57 * "a", 56 * "a" + "b", False),
        ("qemu-3", "\u4eee\u60f3", True),
        ("qemu-3-", "\u4eee\u60f3", True),
        ("qemu-3", "web", False),
        ("", "web", False),
        ("lxc-3-web", "web", False),
    ],
)
def test_libvirts_group_fits_the_name_of_its_vm_alone(machine: str, name: str, same: bool) -> None:
    assert VmScope("/x", machine=machine).is_machine_of(name) is same
