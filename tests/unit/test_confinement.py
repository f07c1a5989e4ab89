"""What the doctor sees of Yama, SELinux and AppArmor, on folders made as the kernel and the policies have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmguard.doctor.facts import ConfinementFacts
from vmguard.doctor.finding import Level
from vmguard.doctor.judge_confinement import judge_confinement
from vmguard.doctor.look_confinement import look

PYTHON = "/usr/bin/python3.11"
#: of a Debian 12 with libvirt: a VM's own profile, a helper's, and the daemon's
PROFILES = (
    "libvirt-0f1e (enforce)\nlibvirtd//qemu_bridge_helper (enforce)\nvirt-aa-helper (enforce)\nlibvirtd (enforce)\n"
)


def put(root: Path, **files: str) -> None:
    places = {
        "yama": "proc/sys/kernel/yama/ptrace_scope",
        "enforce": "sys/fs/selinux/enforce",
        "profiles": "sys/kernel/security/apparmor/profiles",
        "local": "etc/apparmor.d/local/usr.sbin.libvirtd",
    }
    for name, text in files.items():
        path = root / places.get(name, f"sys/fs/selinux/booleans/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def bad(facts: ConfinementFacts) -> list[str]:
    return [finding.check for finding in judge_confinement(facts) if finding.level is not Level.OK]


def test_a_kernel_without_any_of_them_forbids_nothing(tmp_path: Path) -> None:
    assert look([PYTHON], str(tmp_path)) == ConfinementFacts()
    assert bad(ConfinementFacts()) == []


@pytest.mark.parametrize(("scope", "found"), [("0", []), ("1", []), ("2", []), ("3", ["host.ptrace"])])
def test_yama_forbids_it_to_root_at_3_alone(tmp_path: Path, scope: str, found: list[str]) -> None:
    put(tmp_path, yama=f"{scope}\n")
    assert bad(look([], str(tmp_path))) == found


@pytest.mark.parametrize(
    ("booleans", "found"),
    [
        ({"deny_ptrace": "0 0", "virt_use_nfs": "1 1", "virt_hooks_unconfined": "1 1"}, []),
        ({"deny_ptrace": "1 1"}, ["host.ptrace"]),
        ({"deny_ptrace": "0 1"}, []),  # it counts from the next commit of booleans on
        ({"virt_use_nfs": "0 0"}, ["host.selinux"]),
        ({"virt_hooks_unconfined": "0 0"}, ["host.selinux"]),
        ({}, []),  # a policy that has none of them
    ],
)
def test_selinuxs_booleans_count_where_it_enforces(tmp_path: Path, booleans: dict[str, str], found: list[str]) -> None:
    put(tmp_path, enforce="1", **booleans)
    assert bad(look([], str(tmp_path))) == found
    put(tmp_path, enforce="0")
    assert look([], str(tmp_path)).booleans is None
    assert bad(look([], str(tmp_path))) == []


@pytest.mark.parametrize(
    ("interpreter", "local", "found"),
    [
        (PYTHON, "", []),
        ("/opt/python/bin/python3.12", "", ["libvirt.apparmor"]),
        ("/opt/python/bin/python3.12", "# /opt/python/bin/python3.12 PUx,\n", ["libvirt.apparmor"]),
        ("/opt/python/bin/python3.12", "/opt/python/bin/python3.12 PUx,\n", []),
    ],
)
def test_apparmor_lets_the_hook_run_the_systems_interpreter(
    tmp_path: Path, interpreter: str, local: str, found: list[str]
) -> None:
    put(tmp_path, profiles=PROFILES, local=local)
    facts = look([interpreter], str(tmp_path))
    assert facts.profiles == ("libvirtd",)
    assert bad(facts) == found


@pytest.mark.parametrize("profiles", ["libvirtd (complain)\n", "libvirt-0f1e (enforce)\n"])
def test_control_a_profile_that_is_not_enforced_bars_nothing(tmp_path: Path, profiles: str) -> None:
    put(tmp_path, profiles=profiles)
    assert bad(look(["/opt/python/bin/python3.12"], str(tmp_path))) == []


def test_the_older_name_of_the_profile_is_known(tmp_path: Path) -> None:
    put(tmp_path, profiles="/usr/sbin/libvirtd (enforce)\n")
    assert bad(look(["/opt/py"], str(tmp_path))) == ["libvirt.apparmor"]
