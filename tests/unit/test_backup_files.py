"""A backup's files are pure output: told from the VM's own disks by libvirt's status file alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.libvirt import host
from vmguard.adapters.libvirt.hypervisor import Libvirt
from vmguard.core.locks.claim_states import State
from vmguard.core.locks.guard_states import Origin
from vmguard.core.locks.plan import DISK, EXCLUSIVE, OUTPUT
from vmguard.core.sources.backup_job import files_of
from vmguard.core.watchdog.policy import Stake
from vmguard.daemon.pin.backup_files import BackupFiles
from vmguard.daemon.registry.guarded_file import Access, GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm

UUID = "3071cc46-03de-4d64-be22-b25d0bf3d889"
TARGET = "/srv/backup/vda.qcow2"
#: as libvirt 9.0 writes it, shortened
STATUS = f"""<!--
WARNING: THIS IS AN AUTO-GENERATED FILE. -->
<domstatus state='running' reason='booted' pid='123'>
  <backups>
    <domainbackup mode='push'>
      <disks>
        <disk name='vda' backup='yes' state='running' type='file' backupmode='full' index='2'>
          <driver type='qcow2'/>
          <target file='{TARGET}'><privateData><nodenames/></privateData></target>
        </disk>
        <disk name='vdb' backup='no'/>
      </disks>
    </domainbackup>
  </backups>
  <domain type='qemu' id='1'><name>web</name><uuid>{UUID}</uuid></domain>
</domstatus>""".encode()


def test_the_target_of_a_push_backup_and_the_scratch_file_of_a_pull_backup() -> None:
    assert files_of(STATUS) == {TARGET}
    pull = STATUS.replace(b"mode='push'", b"mode='pull'").replace(b"target", b"scratch")
    assert files_of(pull) == {TARGET}


@pytest.mark.parametrize(
    "status",
    [
        b"",
        STATUS.replace(b"domainbackup", b"domainother"),
        STATUS.replace(b"</domstatus>", b""),
        STATUS.replace(TARGET.encode(), b"vda.qcow2"),
        STATUS.replace(b"<backups>", b"<devices>").replace(b"</backups>", b"</devices>"),
        b"<domainbackup",
    ],
)
def test_anything_else_names_none(status: bytes) -> None:
    assert files_of(status) == frozenset()


def test_only_the_status_file_of_this_very_vm_counts(tmp_path: Path) -> None:
    path = tmp_path / "web.xml"
    path.write_bytes(STATUS)
    assert Libvirt().backup_files(RunDirs(str(tmp_path), ""), "web", UUID) == {TARGET}
    assert host.backup_files(str(tmp_path), "web", UUID.replace("3", "4")) == frozenset()
    assert host.backup_files(str(tmp_path), "../web", UUID) == frozenset()
    path.chmod(0o666)
    assert host.backup_files(str(tmp_path), "web", UUID) == frozenset(), "anybody could have written it"


def guarded(path: str, origin: Origin) -> GuardedFile:
    file = GuardedFile(path, EXCLUSIVE, DISK, "test", (1, 2), [], origin=origin)
    file.access = Access.READ_WRITE
    return file


def test_a_vm_is_not_frozen_for_its_backup_and_is_again_for_the_disk_that_it_becomes() -> None:
    named: set[str] = set()
    judge = BackupFiles(lambda vm: frozenset(named)).judge
    vm = GuardedVm("libvirt", "web", UUID, [], State.RUNNING)
    target, own = guarded(TARGET, Origin.FOUND), guarded("/srv/vm/web.qcow2", Origin.of_claim(EXCLUSIVE))
    vm.files += [target, own]
    judge(vm)
    assert target.stake is Stake.VITAL, "control: no backup is known"
    named.update({TARGET, own.path})
    vm.changed = False
    judge(vm)
    assert (target.role, target.stake, vm.changed) == (OUTPUT, Stake.SPARE, True)
    assert (own.role, own.stake) == (DISK, Stake.VITAL), "what the hook claimed is the VM's own, whoever names it"
    named.clear()
    judge(vm)
    assert (target.role, target.stake) == (DISK, Stake.VITAL)
