"""Session VMs (qemu:///session): the hook of an ordinary user, who may not talk to the daemon. No NFS is mounted here,
so the tests of shares say themselves which file system is one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.guard import Answer, Guard, Vm, locks_on, make_disk, run
from tests.support.namespaces import Space
from tests.support.other_users import open_folder
from tests.support.qemu_img import create, overlay
from vmguard.adapters.linux import configured_mounts, proc
from vmguard.adapters.linux.configured_mounts import ConfiguredShare
from vmguard.adapters.linux.mounts import Mount
from vmguard.core.sources.domain_xml import Domain, parse_domain
from vmguard.errors import DaemonError
from vmguard.hook import session_vm

pytestmark = pytest.mark.process

_USER = 65534
_AS_USER = ("setpriv", "--reuid", str(_USER), "--regid", str(_USER), "--clear-groups", "--")
#: root that needs the rights that a file's mode gives, as under AppArmor or SELinux
_CONFINED = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--")
_PRIVATE_ETC = """
mount -t tmpfs none /mnt; mkdir /mnt/upper /mnt/work
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work none /etc
mkdir /mnt/lib /mnt/lib-work
mount -t overlay -o lowerdir=/var/lib,upperdir=/mnt/lib,workdir=/mnt/lib-work none /var/lib
rm -rf /etc/vmguard /var/lib/vmguard; mkdir /etc/vmguard
"""


@pytest.fixture(scope="module")
def etc() -> Iterator[Space]:
    with Space(_PRIVATE_ETC) as space:
        yield space


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    with open_folder() as top:
        yield top


@pytest.fixture
def desk(open_to_all: Path) -> Vm:
    vm = Vm("desk", [make_disk(open_to_all / "desk.raw")])
    os.chown(vm.disks[0], _USER, _USER)
    return vm


def hook_of_a_user(guard: Guard, vm: Vm, operation: str = "prepare") -> Answer:
    command = guard.hook_command(vm.name, operation, "begin", "-")
    at = len(guard.prefix)
    return run([*command[:at], *_AS_USER, *command[at:]], vm.xml(), guard.hook_environment())


def write_config(etc: Space, text: str, mode: int = 0o644) -> None:
    path = etc.root / "etc/vmguard/vmguard.yaml"
    path.write_text(text)
    path.chmod(mode)


@pytest.mark.parametrize("config", ["", "hook: {session_vms: local}"])
@pytest.mark.parametrize("daemon", [True, False], ids=["a daemon runs", "no daemon"])
def test_an_ordinary_users_vm_on_this_hosts_own_disks_starts(
    open_to_all: Path, etc: Space, desk: Vm, config: str, daemon: bool
) -> None:
    write_config(etc, config)
    guard = Guard(open_to_all, prefix=etc.prefix)
    try:
        if daemon:
            guard.start()
        answer = hook_of_a_user(guard, desk)
        assert (answer.status, answer.out, answer.err) == (0, "", "")
        assert not locks_on(*desk.disks)
        if daemon:  # negative control: the same start by root is guarded
            assert guard.hook("prepare", desk.xml(), desk.name).status == 0
            assert locks_on(*desk.disks)
    finally:
        guard.stop()
        guard.end()


def test_the_admin_may_refuse_or_allow_them_all(open_to_all: Path, etc: Space, desk: Vm) -> None:
    guard = Guard(open_to_all, prefix=etc.prefix)
    write_config(etc, "hook: {session_vms: refuse}")
    answer = hook_of_a_user(guard, desk)
    assert (answer.status, answer.out) == (1, "")
    assert f"VM 'desk' is a session VM of user {_USER}" in answer.err
    assert "hook.session_vms is refuse" in answer.err
    assert "virsh -c qemu:///system" in answer.err
    assert "systemctl start" not in answer.err
    write_config(etc, "hook: {session_vms: allow}")
    assert hook_of_a_user(guard, desk).status == 0


def test_what_is_decided_about_an_absent_daemon_says_nothing_of_them(open_to_all: Path, etc: Space, desk: Vm) -> None:
    guard = Guard(open_to_all, prefix=etc.prefix)
    write_config(etc, "hook: {daemon_absent: allow, session_vms: refuse}")
    assert hook_of_a_user(guard, desk).status == 1
    write_config(etc, "hook: {daemon_absent: refuse, session_vms: local}")
    assert hook_of_a_user(guard, desk).status == 0


def test_a_configuration_that_the_user_may_not_read_is_the_default_and_a_wrong_one_allows_nothing(
    open_to_all: Path, etc: Space, desk: Vm
) -> None:
    guard = Guard(open_to_all, prefix=etc.prefix)
    write_config(etc, "hook: {session_vms: refuse}", mode=0o600)
    assert hook_of_a_user(guard, desk).status == 0
    write_config(etc, "hook: {session_vms: perhaps}")
    answer = hook_of_a_user(guard, desk)
    assert answer.status == 1
    assert "/etc/vmguard/vmguard.yaml" in answer.err


@pytest.mark.parametrize("operation", ["release", "migrate", "restore", "reconnect", "started", "stopped"])
def test_no_other_event_of_theirs_ever_fails(open_to_all: Path, etc: Space, desk: Vm, operation: str) -> None:
    write_config(etc, "hook: {session_vms: refuse}")
    assert hook_of_a_user(Guard(open_to_all, prefix=etc.prefix), desk, operation).status == 0


def test_root_that_may_not_use_the_socket_does_not_take_the_daemon_for_absent(
    open_to_all: Path, etc: Space, desk: Vm
) -> None:
    guard = Guard(open_to_all, prefix=etc.prefix)
    guard.run_dir.mkdir(mode=0o700)
    os.chown(guard.run_dir, _USER, _USER)
    write_config(etc, "hook: {daemon_absent: allow}")
    command = guard.hook_command(desk.name, "prepare", "begin", "-")
    at = len(guard.prefix)
    answer = run([*command[:at], *_CONFINED, *command[at:]], desk.xml(), guard.hook_environment())
    assert answer.status == 1
    assert "user 0 may not talk to the vmguard daemon" in answer.err
    assert "AppArmor or SELinux" in answer.err
    assert "systemctl start" not in answer.err
    guard.run_dir.chmod(0o755)  # negative control: now it is seen that there is none
    os.chown(guard.run_dir, 0, 0)
    assert run(command, desk.xml(), guard.hook_environment()).status == 0


# -- shares ----------------------------------------------------------------------------------------------------------


def nfs_at(folder: Path) -> Callable[[], list[Mount]]:
    """Return a reader of mounts to which the file system of a folder is NFS."""
    fd = os.open(folder, os.O_PATH)
    share = Mount(proc.fdinfo("self", fd).mount_id, os.fstat(fd).st_dev, "/srv/nas", "nfs4", "nas:/vm", "vers=4.2")
    os.close(fd)
    return lambda: [share]


def domain(disk: object, os_part: str = "", format: str = "qcow2") -> Domain:
    uuid = "55555555-5555-4555-8555-555555555555"
    source = f"<disk type='file'><driver type='{format}'/><source file='{disk}'/><target dev='vda'/></disk>"
    xml = f"<domain><name>desk</name><uuid>{uuid}</uuid><os>{os_part}</os><devices>{source}</devices></domain>"
    return parse_domain(xml.encode())


@pytest.fixture
def other_file_system() -> Iterator[Path]:
    top = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield top
    shutil.rmtree(top)


@pytest.mark.parametrize("what", ["disk", "backing image", "NVRAM that is still to be made"])
def test_a_vm_with_a_file_on_a_share_is_refused_with_the_right_cure(
    tmp_path: Path, other_file_system: Path, what: str
) -> None:
    os_part = ""
    shared = other_file_system / "shared"
    if what == "disk":
        disk = create(shared)
    elif what == "backing image":
        disk = overlay(tmp_path / "top", str(create(shared)))
    else:
        disk = create(tmp_path / "top")
        os_part = f"<nvram>{shared}</nvram>"
    session_vm.refuse_unless_allowed(domain(disk, os_part), "desk")  # negative control: nothing is NFS
    with pytest.raises(DaemonError) as refused:
        session_vm.refuse_unless_allowed(domain(disk, os_part), "desk", nfs_at(other_file_system))
    assert f"because {shared} lies on NFS" in refused.value.message
    assert "(mounted on /srv/nas)" in refused.value.message
    assert "virsh -c qemu:///system" in refused.value.hint
    assert "hook.session_vms: allow" in refused.value.hint


def test_a_vm_beside_a_share_starts(tmp_path: Path, other_file_system: Path) -> None:
    session_vm.refuse_unless_allowed(domain(create(tmp_path / "top")), "desk", nfs_at(other_file_system))


def test_a_file_on_the_bare_folder_of_a_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = domain(create(tmp_path / "top"))
    root = Mount(1, os.stat(tmp_path).st_dev, "/", "ext4", "/dev/vda1", "rw")
    share = ConfiguredShare(str(tmp_path), "nas:/vm", "/etc/fstab")
    monkeypatch.setattr(configured_mounts, "shares", lambda: [share])
    with pytest.raises(DaemonError, match="where nas:/vm is not mounted") as refused:
        session_vm.refuse_unless_allowed(vm, "desk", lambda: [root])
    assert refused.value.hint.startswith("mount ")
    monkeypatch.setattr(configured_mounts, "shares", list)  # negative control: nothing is to be mounted there
    session_vm.refuse_unless_allowed(vm, "desk", lambda: [root])


def test_files_that_cannot_be_determined_are_refused_only_where_there_are_shares(
    tmp_path: Path, other_file_system: Path
) -> None:
    broken = domain(tmp_path / "gone")
    session_vm.refuse_unless_allowed(broken, "desk", list)
    with pytest.raises(DaemonError, match=r"nobody knows whether its files lie on NFS: disk vda: .* does not exist"):
        session_vm.refuse_unless_allowed(broken, "desk", nfs_at(other_file_system))


def test_a_pool_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tmp_path / "images"
    images.mkdir()
    create(images / "a")
    described = tmp_path / ".config/libvirt/storage"
    described.mkdir(parents=True)
    (described / "mine.xml").write_text(
        f"<pool type='dir'><name>mine</name><target><path>{images}</path></target></pool>"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    uuid = "55555555-5555-4555-8555-555555555555"
    disk = "<disk type='volume'><driver type='qcow2'/><source pool='mine' volume='a'/><target dev='vda'/></disk>"
    vm = parse_domain(f"<domain><name>desk</name><uuid>{uuid}</uuid><devices>{disk}</devices></domain>".encode())
    with pytest.raises(DaemonError, match=f"because {images}/a lies on NFS"):
        session_vm.refuse_unless_allowed(vm, "desk", nfs_at(tmp_path))
