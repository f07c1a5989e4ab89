"""From a bare host to a guarded one and back, by packages alone: real apt, real systemd, real libvirt, a real server.

The host has libvirt and the packages that vmguard depends on; nothing of this repository but the two .deb files.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, NfsServer, Result
from tests.lab.domain import domain_xml
from tests.lab.guest import REPOSITORY
from tests.lab.heartbeat import heartbeat_disk
from tests.lab.hypervisor import Hypervisor
from tests.scenarios.kept import until
from tests.scenarios.prober import Prober
from tests.support.guarded_guests import SHARE

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

OLD, NEW = "0.1.0", "0.1.1"
DISK = f"{SHARE}/web.qcow2"
#: all that a package of vmguard ever puts anywhere, or makes while it runs
TRACES = (
    "ls -d /etc/vmguard /run/vmguard /usr/share/vmguard /usr/bin/vmguard /usr/lib/python3/dist-packages/vmguard"
    " /etc/libvirt/hooks/qemu* /lib/systemd/system/vmguard* /etc/systemd/system/*/vmguard* /var/lib/vmguard "
    "2> /dev/null"
)
#: apt's own work on a slow machine, seconds
APT = 240.0


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """This version, and a newer build of it. VMGUARD_UPGRADE_FROM names another tree to build the first one from."""
    made = {}
    for version, tree in ((OLD, os.environ.get("VMGUARD_UPGRADE_FROM", REPOSITORY)), (NEW, REPOSITORY)):
        done = subprocess.run(
            [f"{tree}/packaging/build-deb", version], capture_output=True, text=True, check=True, timeout=300
        )
        made[version] = Path(tree) / done.stdout.split()[-1]
    return made


@pytest.fixture(scope="module")
def place(packages: dict[str, Path]) -> Iterator[tuple[NfsServer, Hypervisor, Hypervisor]]:
    with Lab() as lab:
        server = lab.nfs_server(lease=10, grace=10)
        host = lab.hypervisor("hyp-a", mem="1G", libvirt=True, init="systemd")
        rival = lab.hypervisor("hyp-b")
        for hypervisor in (host, rival):
            hypervisor.mount(server)
        for version, path in packages.items():
            host.put(f"/root/vmguard_{version}_all.deb", path.read_bytes())
        # A machine that lets its services start; and no index of manual pages, which takes a minute here.
        host.run("rm -f /usr/sbin/policy-rc.d /var/lib/man-db/auto-update")
        host.put(DISK, heartbeat_disk())
        host.libvirt.define(domain_xml("web", DISK))
        yield server, host, rival


def apt(host: Hypervisor, *words: str) -> Result:
    options = "-y -q --no-install-recommends"
    return host.run(f"DEBIAN_FRONTEND=noninteractive apt-get {options} {' '.join(words)} 2>&1", APT)


def vmguard(host: Hypervisor, *words: str) -> tuple[int, dict[str, Any]]:
    answer = host.run(["vmguard", *words, "--json"], 60, check=False)
    said: dict[str, Any] = json.loads(answer.stdout)
    return answer.returncode, said


def beats(host: Hypervisor) -> int:
    return host.libvirt.beats("web").count(".")


def goes_on_beating(host: Hypervisor) -> None:
    goal = beats(host) + 3
    until(lambda: beats(host) >= goal, lambda: "the VM does not write any more", 30)
    assert "E" not in host.libvirt.beats("web")


def test_installed_enabled_upgraded_disabled_purged(place: tuple[NfsServer, Hypervisor, Hypervisor]) -> None:
    _, host, rival = place

    # apt install: the daemon runs, no hypervisor is changed
    apt(host, "install", f"/root/vmguard_{OLD}_all.deb")
    assert host.run("systemctl is-active vmguard.socket vmguard.service").stdout.split() == ["active", "active"]
    assert host.run("ls -A /etc/libvirt/hooks").stdout == ""
    assert host.run("vmguard --version").stdout == f"vmguard {OLD}\n"

    # vmguard enable libvirt: proven by what libvirt does
    status, said = vmguard(host, "enable", "libvirt")
    assert (status, {step["step"]: step["state"] for step in said["steps"]}["proof"]) == (0, "done"), said

    # virsh start, vmguard check
    host.libvirt.virsh("start", "web")
    goes_on_beating(host)
    until(lambda: vmguard(host, "check", "web")[0] == 0, lambda: str(vmguard(host, "check", "web")), 20)
    assert vmguard(host, "check", "web")[1]["summary"] == "guarded here, running"
    pid = host.libvirt.qemu_pid("web")

    # upgrade with the VM running, and a rival at the lock all the time
    before = host.run("systemctl show -P MainPID vmguard").stdout
    with Prober(rival, DISK) as thief:
        apt(host, "install", f"/root/vmguard_{NEW}_all.deb")
        until(lambda: vmguard(host, "check", "web")[0] == 0, lambda: str(vmguard(host, "check", "web")), 20)
        goes_on_beating(host)
    assert thief.wins == []
    assert thief.tries > 100
    assert host.run("systemctl show -P MainPID vmguard").stdout != before
    assert host.run("vmguard --version").stdout == f"vmguard {NEW}\n"
    assert vmguard(host, "enable", "libvirt")[0] == 0, "the hook is still the one that libvirt calls"

    # disable: later starts are not guarded, this VM still is
    status, said = vmguard(host, "disable", "libvirt")
    assert (status, {step["step"]: step["state"] for step in said["steps"]}["proof"]) == (0, "done"), said
    assert vmguard(host, "check", "web")[0] == 0

    # apt purge: nothing is left but the VM, which never noticed; QEMU itself still has the locks
    with Prober(rival, DISK) as thief:
        told = apt(host, "purge", "vmguard").stdout
        goes_on_beating(host)
    assert thief.wins == []
    assert "VMs that run now go on" in told
    assert host.run(TRACES, check=False).stdout == ""
    assert host.libvirt.qemu_pid("web") == pid
    goes_on_beating(host)

    # and when it ends, its locks end with it
    host.libvirt.virsh("destroy", "web")
    time.sleep(1)
    with Prober(rival, DISK) as thief:
        until(lambda: thief.so_far() != [], lambda: "the lock of a VM that has ended is still there", 20)


def test_removed_with_its_hook_in_place_every_start_is_refused_until_the_purge(
    place: tuple[NfsServer, Hypervisor, Hypervisor],
) -> None:
    """A package that goes by accident must not leave VMs to start unguarded."""
    _, host, _ = place
    apt(host, "install", f"/root/vmguard_{NEW}_all.deb")
    assert vmguard(host, "enable", "libvirt")[0] == 0
    told = apt(host, "remove", "vmguard").stdout
    assert "REFUSES every start from now on" in told
    refused = host.libvirt.virsh("start", "web", check=False)
    assert refused.returncode == 1
    assert "do now" in refused.stderr
    apt(host, "purge", "vmguard")
    assert host.run(TRACES, check=False).stdout == ""
    host.libvirt.virsh("start", "web")
    host.libvirt.virsh("destroy", "web")
