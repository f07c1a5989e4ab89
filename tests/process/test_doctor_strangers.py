"""The doctor names what only looks like a VM's QEMU: pid, user, program, and why it is not believed."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from tests.support.control_groups import ControlGroups, libvirt_scope
from tests.support.strangers import NOBODY, Strangers
from vmguard.adapters.hypervisor import RunDirs
from vmguard.doctor.facts import DisbelievedFacts
from vmguard.doctor.judge_qemus import judge_qemus
from vmguard.doctor.look_qemus import look_qemus

pytestmark = pytest.mark.process

UUID = str(uuid.uuid4())
#: as libvirt's own have it, by which the doctor once took a process for libvirt's
LIKE_LIBVIRTS = ("-name", "guest=web", "-uuid", UUID, "-chardev", "socket,path=/var/lib/libvirt/qemu/domain-1-web/m")


@pytest.fixture
def run_dirs(tmp_path: Path) -> RunDirs:
    for name in ("libvirt", "pve"):
        (tmp_path / name).mkdir()
    return RunDirs(str(tmp_path / "libvirt"), str(tmp_path / "pve"))


def doubts(run_dirs: RunDirs, pid: int) -> list[DisbelievedFacts]:
    return [one for one in look_qemus(run_dirs)[1] if one.pid == pid]


@pytest.mark.parametrize(
    ("user", "pid_file", "why"),
    [
        (NOBODY, "", "there is no pid file"),
        (NOBODY, "another's", "names pid 1"),
        (NOBODY, "of nobody", "is not root's alone"),
        (NOBODY, "older", "it began after"),
        (0, "of nobody", "is not root's alone"),
    ],
)
def test_it_says_who_is_not_believed_and_why(
    run_dirs: RunDirs, strangers: Strangers, user: int, pid_file: str, why: str
) -> None:
    process = strangers.start(user, "qemu-system-x86_64", *LIKE_LIBVIRTS)
    path = Path(run_dirs.libvirt, "web.pid")
    if pid_file:
        path.write_text("1234567" if pid_file == "another's" else f"{process.pid}")
    if pid_file == "older":
        os.utime(path, (1e9, 1e9))
    if pid_file == "of nobody":
        os.chown(path, NOBODY, NOBODY)
    [found] = doubts(run_dirs, process.pid)
    assert why in found.why
    assert (found.owner, found.name) == (f"user {user}", "web")
    [finding] = judge_qemus([], [found])
    assert finding.text.startswith(f"pid {process.pid} (user {user}, {os.path.realpath(f'/proc/{process.pid}/exe')})")


def test_control_one_that_is_vouched_for_is_believed(run_dirs: RunDirs, strangers: Strangers) -> None:
    process = strangers.start(NOBODY, "qemu-system-x86_64", *LIKE_LIBVIRTS)
    Path(run_dirs.libvirt, "web.pid").write_text(f"{process.pid}")
    assert doubts(run_dirs, process.pid) == []


def test_another_vms_process_is_named_with_its_group(
    run_dirs: RunDirs, strangers: Strangers, groups: ControlGroups
) -> None:
    process = strangers.start(NOBODY, "qemu-system-x86_64", *LIKE_LIBVIRTS)
    groups.put(libvirt_scope("evil", 4), process.pid)
    Path(run_dirs.libvirt, "web.pid").write_text(f"{process.pid}")
    [found] = doubts(run_dirs, process.pid)
    assert (found.owner, found.why) == ("/" + libvirt_scope("evil", 4), "for libvirt it is another VM's")


def test_what_has_an_image_open_is_libvirts_only_if_libvirt_says_so(
    run_dirs: RunDirs, strangers: Strangers, tmp_path: Path
) -> None:
    image = Path("/var/tmp") / f"vmguard-test-{os.getpid()}.raw"
    image.write_bytes(b"x")
    os.chown(image, NOBODY, NOBODY)
    try:
        process = strangers.start(NOBODY, "qemu-system-x86_64", f"{image}=", *LIKE_LIBVIRTS)
        assert [one.libvirt for one in look_qemus(run_dirs)[0] if one.pid == process.pid] == [False]
        Path(run_dirs.libvirt, "web.pid").write_text(f"{process.pid}")
        assert [one.libvirt for one in look_qemus(run_dirs)[0] if one.pid == process.pid] == [True]
    finally:
        image.unlink()


def test_of_thousands_the_first_are_named_and_the_others_counted() -> None:
    found = judge_qemus([], [DisbelievedFacts(9, "user 1", "/tmp/qemu", "web", "it is nobody's")] * 15)
    assert len(found) == 11
    assert found[-1].text.startswith("5 more processes look like")


def test_its_words_are_shown_escaped_and_a_pid_file_without_a_process_is_named_by_its_vm() -> None:
    [hostile] = judge_qemus([], [DisbelievedFacts(9, "user 1", "/tmp/\x1b[2Jqemu", "we\nb", "it is nobody's")])
    assert "\\x1b[2J" in hostile.text
    assert hostile.subject == "VM we\\nb"
    [gone] = judge_qemus([], [DisbelievedFacts(0, "", "", "web", "/run/x/web.pid is no regular file")])
    assert gone.text == "its pid file is not believed: /run/x/web.pid is no regular file"


def test_a_fifo_or_a_link_in_a_pid_files_place_is_named_and_not_opened(run_dirs: RunDirs) -> None:
    os.mkfifo(f"{run_dirs.libvirt}/web.pid")
    os.symlink("/dev/zero", f"{run_dirs.proxmox}/100.pid")
    found = {one.name: one for one in look_qemus(run_dirs)[1] if one.name in ("web", "100")}
    assert {name: (one.pid, "no regular file" in one.why) for name, one in found.items()} == {
        "web": (0, True),
        "100": (0, True),
    }
