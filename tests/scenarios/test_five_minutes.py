"""README's five minutes on two hosts, each command as it is printed there, and timed.

One host follows it from the first line. On the other one the share is mounted already, and a VM runs on it. Both have
Debian's own Python without python3-libvirt, systemd, and libvirt.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.lab import Lab, NfsServer, Result
from tests.lab.domain import disk_xml, domain_xml
from tests.lab.guest import REPOSITORY
from tests.lab.heartbeat import heartbeat_disk
from tests.lab.hypervisor import Hypervisor
from tests.scenarios.kept import until
from tests.support.guarded_guests import SHARE

pytestmark = [pytest.mark.lab, pytest.mark.only_long, pytest.mark.timeout(900)]

#: each command's own, on a slow machine, seconds
PATIENCE = 240.0
VMS = ("web", "mail")
README = (Path(REPOSITORY) / "README.md").read_text()

Recorder = Callable[[str, object], None]


class Told(NamedTuple):
    """A command as it was typed, what came of it, and how long that took."""

    command: str
    result: Result
    seconds: float


def printed() -> list[str]:
    """The commands of the section, as far as their remarks."""
    section = re.search(r"^## Five minutes.*?\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    assert section is not None
    return [re.split(r" {2,}#", line)[0].strip() for line in re.findall(r"^    (.+)$", section[1], re.MULTILINE)]


def test_the_readme_has_commands() -> None:
    build, install, *others = printed()
    assert build == "packaging/build-deb"
    assert install == "apt install ./dist/vmguard_*.deb"
    assert [word for line in others for word in line.split() if word == "vmguard"] == ["vmguard"] * 4
    assert sum("mount -t nfs" in line for line in others) == 1


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[NfsServer, Hypervisor, Hypervisor]]:
    build = subprocess.run(
        [f"{REPOSITORY}/{printed()[0]}"], capture_output=True, text=True, check=True, timeout=300, cwd=REPOSITORY
    )
    path = Path(REPOSITORY) / build.stdout.split()[-1]
    with Lab() as lab:
        server = lab.nfs_server(lease=10, grace=10)
        hosts = [lab.hypervisor(name, mem="1G", libvirt=True, init="systemd") for name in ("hyp-a", "hyp-b")]
        for host in hosts:
            # A machine that lets its services start, and can fetch no package; no index of manual pages, which takes a
            # minute here.
            host.run("rm -rf /usr/sbin/policy-rc.d /var/lib/man-db/auto-update /var/lib/apt/lists/*")
            host.run(f"echo '{server.address} nas' >> /etc/hosts; mkdir -p /root/dist")
            host.put(f"/root/dist/{path.name}", path.read_bytes())
            assert host.run("python3 -c 'import libvirt'", check=False).returncode, "there is python3-libvirt"
        yield server, hosts[0], hosts[1]


def follow(host: Hypervisor, commands: list[str]) -> list[Told]:
    """Type the commands one after the other."""
    told = []
    for command in commands:
        began = time.monotonic()
        result = host.run(f"cd /root && {command} 2>&1", PATIENCE, check=False)
        told.append(Told(command, result, time.monotonic() - began))
    return told


def check(host: Hypervisor, vm: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(host.run(["vmguard", "check", vm, "--json"], 60, check=False).stdout)
    return answer


def is_guarded(host: Hypervisor, vm: str) -> bool:
    found = check(host, vm)
    return (found["status"], found["summary"]) == ("OK", "guarded here, running")


def test_each_command_as_it_is_printed(
    place: tuple[NfsServer, Hypervisor, Hypervisor], record_property: Recorder
) -> None:
    _, a, b = place
    _, *commands = printed()
    # what is there before: on B the share, and a VM that runs on it
    b.run("mkdir -p /srv/vm && mount -t nfs -o vers=4.2,hard nas:/vm /srv/vm")
    for vm in VMS:
        b.put(f"{SHARE}/{vm}.raw", heartbeat_disk("raw"))
    for host in (a, b):
        for vm in VMS:
            host.libvirt.define(domain_xml(vm, disk_xml(f"{SHARE}/{vm}.raw", format="raw")))
    b.libvirt.virsh("start", "mail")

    with ThreadPoolExecutor() as both:
        on_a = both.submit(follow, a, commands)
        on_b = both.submit(follow, b, [command for command in commands if "mount -t" not in command])
        told = {"hyp-a": on_a.result(), "hyp-b": on_b.result()}
    for name, steps in told.items():
        for step in steps:
            print(
                f"{name}: {step.seconds:5.1f} s, status {step.result.returncode}: {step.command}\n{step.result.stdout}"
            )
        record_property(f"five minutes on {name}, all commands, seconds", round(sum(step.seconds for step in steps)))
    for name, steps in told.items():
        for step in steps:
            # the doctor finds something on each host; that is its job
            assert step.result.returncode == 0 or step.command == "vmguard doctor", (name, step)
            assert "Traceback" not in step.result.stdout
        assert sum(step.seconds for step in steps) < 300, "these are the five minutes"

    # and then, as the text goes on
    a.libvirt.virsh("start", "web")
    until(lambda: is_guarded(a, "web"), lambda: str(check(a, "web")), 20)
    until(lambda: is_guarded(b, "mail"), lambda: str(check(b, "mail")), 20)
    refused = b.libvirt.virsh("start", "web", check=False)
    assert refused.returncode
    assert "locked by host hyp-a" in refused.stderr
    refused = a.libvirt.virsh("start", "mail", check=False)
    assert "locked by host hyp-b" in refused.stderr
    assert "E" not in b.libvirt.beats("mail"), "the VM that ran already has not noticed"
