"""A push backup by real libvirt: its target is pure output, and the disk beside it stays the VM's own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.guard import eventually
from tests.support.libvirt_host import Domain, LibvirtHost

pytestmark = pytest.mark.real

_BACKUP = """<domainbackup mode='push'><disks><disk name='vda' type='file'>
<target file='{target}'/><driver type='qcow2'/></disk></disks></domainbackup>"""
_MIB = 1 << 20
#: what a backup cannot have copied before it is slowed down
_DISK_BYTES = 300 * _MIB


def slow_down(host: LibvirtHost, domain: Domain) -> None:
    jobs = json.loads(monitor(host, domain, {"execute": "query-block-jobs"}))["return"]
    for job in jobs:
        order = {"execute": "block-job-set-speed", "arguments": {"device": job["device"], "speed": _MIB}}
        monitor(host, domain, order)
    assert jobs, "the backup is over already"


def monitor(host: LibvirtHost, domain: Domain, order: dict[str, Any]) -> str:
    return host.virsh("qemu-monitor-command", domain.uuid, json.dumps(order)).out


def roles(host: LibvirtHost) -> dict[str, str]:
    return {file["path"]: file["role"] for vm in host.status() for file in vm["files"]}


def test_the_target_of_a_backup_is_no_disk_of_the_vm(host: LibvirtHost, disks: Path) -> None:
    disk, target = disks / "web.raw", disks / "backup.qcow2"
    with disk.open("wb") as stream:
        for _ in range(_DISK_BYTES // _MIB):
            stream.write(os.urandom(_MIB))
    domain = host.define(Domain("web", disk))
    assert host.virsh("start", domain.uuid).status == 0
    host.wait_pinned(domain)
    (disks / "backup.xml").write_text(_BACKUP.format(target=target))
    assert host.virsh("backup-begin", domain.uuid, str(disks / "backup.xml")).status == 0
    slow_down(host, domain)
    assert eventually(lambda: roles(host).get(str(target)) == "output", 15), roles(host)
    assert roles(host)[str(disk)] == "disk"
    assert host.virsh("domjobabort", domain.uuid).status == 0
    assert eventually(lambda: str(target) not in roles(host), 15), "control: it is the VM's for as long as QEMU has it"
