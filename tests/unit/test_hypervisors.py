"""What differs between hypervisors is answered by one table, and nowhere by a comparison with a name."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from vmguard.adapters import hypervisors
from vmguard.adapters.hypervisor import Hypervisor, RunDirs
from vmguard.adapters.linux.proc import CommandLine
from vmguard.core import BARE, HYPERVISORS, LIBVIRT, PROXMOX
from vmguard.core.sources.process_arguments import Kind, identity, served

PACKAGE = Path(__file__).resolve().parents[2] / "vmguard"
UUID = "5f0c1f4e-1111-2222-3333-444455556666"
WORDS = {
    LIBVIRT: [
        "/usr/bin/qemu-system-x86_64",
        "-name",
        "guest=web",
        "-uuid",
        UUID,
        "-chardev",
        "x,/libvirt/qemu/channel",
    ],
    PROXMOX: ["/usr/bin/kvm", "-id", "100", "-pidfile", "/var/run/qemu-server/100.pid", "-smbios", f"uuid={UUID}"],
    BARE: ["qemu-system-x86_64", "-name", "web", "-uuid", UUID],
}
RUN_DIRS = RunDirs("/nowhere/libvirt", "/run/qemu-server")


def line(words: list[str], pid: int = 4000) -> CommandLine:
    return CommandLine(pid, 7, "/usr/bin/qemu-system-x86_64", words)


def test_the_table_has_every_name_once_and_nobody_last() -> None:
    assert tuple(hypervisors.TABLE) == HYPERVISORS
    assert hypervisors.by_name("hyper-v").name == BARE


@pytest.mark.parametrize("known", hypervisors.TABLE.values(), ids=lambda known: known.name)
def test_each_has_every_member_of_the_port(known: Hypervisor) -> None:
    wanted = {name for name in (*Hypervisor.__annotations__, *vars(Hypervisor)) if not name.startswith("_")}
    assert wanted <= set(dir(known))


#: this very process, which has begun and is root's, or the tester's
ME = os.getpid()
NOBODY = 1 << 22


@pytest.mark.parametrize("name", HYPERVISORS)
def test_what_a_qemu_says_of_itself_makes_it_nobodys(name: str) -> None:
    assert hypervisors.manager_of(RUN_DIRS, line(WORDS[name])).name == BARE


@pytest.mark.parametrize(("name", "file"), [(LIBVIRT, "web.pid"), (PROXMOX, "100.pid")])
def test_a_pid_file_that_only_root_can_have_written_tells_whose_a_qemu_is(tmp_path: Path, name: str, file: str) -> None:
    words = [word.replace("/var/run/qemu-server", str(tmp_path)) for word in WORDS[name]]
    run_dirs = RunDirs(str(tmp_path), str(tmp_path))
    assert hypervisors.manager_of(run_dirs, line(words, ME)).name == BARE
    (tmp_path / file).write_text(f"{ME}\n")
    assert hypervisors.manager_of(run_dirs, line(words, ME)).name == name
    assert hypervisors.manager_of(run_dirs, line(words, ME + 1)).name == BARE
    assert hypervisors.manager_of(run_dirs, line(WORDS[BARE][:-1], ME)).name == BARE, "arguments narrow"


def test_the_uuid_of_libvirts_own_status_file_counts_and_not_that_of_the_arguments(tmp_path: Path) -> None:
    (tmp_path / "web.pid").write_text(f"{ME}\n")
    run_dirs, status = RunDirs(str(tmp_path), ""), tmp_path / "web.xml"
    status.write_text(f"<domstatus><domain><name>web</name><uuid>{UUID}</uuid></domain></domstatus>")
    assert hypervisors.manager_of(run_dirs, line(WORDS[LIBVIRT], ME)).name == LIBVIRT
    status.write_text(status.read_text().replace(UUID, UUID.replace("5", "6")))
    assert hypervisors.manager_of(run_dirs, line(WORDS[LIBVIRT], ME)).name == BARE


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (LIBVIRT, [UUID], [UUID.upper(), "100", "", UUID + "\n"]),
        (PROXMOX, ["100", "999999999"], ["99", "0100", "1000000000", UUID, "10a", "", "100\n"]),
        (BARE, [], [UUID, "100", ""]),
    ],
)
def test_an_id_is_one_of_the_hypervisors_own_kind(name: str, good: list[str], bad: list[str]) -> None:
    known = hypervisors.by_name(name)
    assert [known.is_id(text) for text in good] == [True] * len(good)
    assert [known.is_id(text) for text in bad] == [False] * len(bad)


def test_a_vm_is_known_by_the_id_that_its_hook_would_use() -> None:
    ids = {name: hypervisors.by_name(name).id_of(identity(words)) for name, words in WORDS.items()}
    assert ids == {LIBVIRT: UUID, PROXMOX: "100", BARE: UUID}


def test_a_qemu_is_a_vms_by_its_arguments() -> None:
    libvirt, proxmox = hypervisors.by_name(LIBVIRT), hypervisors.by_name(PROXMOX)
    assert libvirt.is_qemu_of(RUN_DIRS, WORDS[LIBVIRT], UUID)
    assert not libvirt.is_qemu_of(RUN_DIRS, WORDS[PROXMOX], UUID), "smbios is not what libvirt gives"
    assert not libvirt.is_qemu_of(RUN_DIRS, ["libvirtd"], UUID)
    assert proxmox.is_qemu_of(RUN_DIRS, WORDS[PROXMOX], "100")
    assert not proxmox.is_qemu_of(RUN_DIRS, WORDS[PROXMOX], "10")
    assert proxmox.is_qemu_of(RUN_DIRS, ["/opt/emulator", *WORDS[PROXMOX][1:]], "100"), "whatever it is called"
    assert not proxmox.is_qemu_of(RUN_DIRS, [], "100")


def test_a_candidate_is_the_living_process_that_the_pid_file_names_whatever_it_is_called(tmp_path: Path) -> None:
    """This process is called after Python or pytest: a pid file that root has written needs no name like QEMU's."""
    run_dirs = RunDirs(str(tmp_path), str(tmp_path))
    found = {}
    for text in (f"{ME}\n", str(NOBODY), "1", "", "garbage"):
        (tmp_path / "web.pid").write_text(text)
        (tmp_path / "100.pid").write_text(text)
        found[text.strip()] = hypervisors.candidate(run_dirs, LIBVIRT, "web", UUID)
        assert hypervisors.candidate(run_dirs, PROXMOX, "web", "100") == found[text.strip()]
        assert hypervisors.candidate(run_dirs, BARE, "web", UUID) == 0
    assert found == {str(ME): ME, str(NOBODY): 0, "1": 0, "": 0, "garbage": 0}
    for name in ("../web", "\ud800", "a\0b"):
        assert hypervisors.candidate(run_dirs, LIBVIRT, name, UUID) == 0
        assert hypervisors.why_not_believed(run_dirs, LIBVIRT, name, UUID) == ""
    assert hypervisors.candidate(run_dirs, PROXMOX, "", "../100") == 0


@pytest.mark.parametrize("forged", ["file", "folder", "symlink", "fifo"])
def test_a_pid_file_that_somebody_else_may_have_written_proves_nothing_and_that_is_said(
    tmp_path: Path, forged: str
) -> None:
    path, run_dirs = tmp_path / "web.pid", RunDirs(str(tmp_path), "")
    path.write_text(f"{ME}\n")
    assert (hypervisors.candidate(run_dirs, LIBVIRT, "web", UUID), why(run_dirs)) == (ME, "")
    if forged == "file":
        path.chmod(0o664)
    elif forged == "folder":
        tmp_path.chmod(0o777)
    else:
        path.rename(tmp_path / "elsewhere")
        path.symlink_to("elsewhere") if forged == "symlink" else os.mkfifo(path)
    assert hypervisors.candidate(run_dirs, LIBVIRT, "web", UUID) == 0
    assert str(path) in why(run_dirs)


def why(run_dirs: RunDirs) -> str:
    return hypervisors.why_not_believed(run_dirs, LIBVIRT, "web", UUID)


def test_the_arguments_have_the_last_word_about_a_candidate(tmp_path: Path) -> None:
    (tmp_path / "web.pid").write_text(str(ME))
    run_dirs = RunDirs(str(tmp_path), "/nowhere")
    assert hypervisors.qemu_pid(run_dirs, LIBVIRT, "web", UUID, lambda pid: WORDS[LIBVIRT]) == ME
    assert hypervisors.qemu_pid(run_dirs, LIBVIRT, "web", UUID, lambda pid: WORDS[PROXMOX]) is None
    assert hypervisors.qemu_pid(run_dirs, LIBVIRT, "web", UUID, lambda pid: []) is None


def test_a_vm_that_runs_is_named_by_libvirts_status_file(tmp_path: Path) -> None:
    known, run_dirs = hypervisors.by_name(LIBVIRT), RunDirs(str(tmp_path), "")
    status = "<domstatus state='running'><domain type='kvm'><name>{}</name><uuid>{}</uuid></domain></domstatus>"
    (tmp_path / "other.xml").write_text(status.format("other", UUID.replace("5", "6")))
    (tmp_path / "a & b.xml").write_text(status.format("a &amp; b", UUID))
    (tmp_path / "broken.xml").mkdir()
    (tmp_path / "web.pid").write_text("4000")
    assert known.name_of(run_dirs, UUID) == "a & b"
    assert known.name_of(run_dirs, "0" * 36) == ""
    assert known.name_of(RunDirs("/nowhere", ""), UUID) == ""
    assert hypervisors.by_name(PROXMOX).name_of(run_dirs, "100") == ""


def test_a_helper_belongs_to_the_vm_that_it_names() -> None:
    of_uuid, of_vmid = served(["swtpm", f"dir=/x/{UUID}/tpm2"]), served(["swtpm", "file=/run/qemu-server/100.swtpm"])
    for name in (LIBVIRT, BARE):
        assert hypervisors.by_name(name).names_vm(of_uuid, "web", UUID)
        assert not hypervisors.by_name(name).names_vm(of_vmid, "web", "100")
    assert hypervisors.by_name(PROXMOX).names_vm(of_vmid, "web", "100")
    assert not hypervisors.by_name(PROXMOX).names_vm(of_uuid, "web", UUID)
    swtpm = CommandLine(1, 1, "/usr/bin/swtpm", ["swtpm", "--pid", "file=/run/qemu-server/100.swtpm.pid"])
    assert hypervisors.by_name(PROXMOX).is_helper_of(swtpm, Kind.SWTPM, "100")
    assert not hypervisors.by_name(PROXMOX).is_helper_of(swtpm, Kind.STORAGE_DAEMON, "100")
    assert not hypervisors.by_name(PROXMOX).is_helper_of(swtpm, Kind.SWTPM, "101")


# -- no comparisons -------------------------------------------------------------------------------------------------

_NAMES = {"LIBVIRT", "PROXMOX", "BARE"}


def comparisons(source: str) -> list[int]:
    """The lines in which something is compared with the name of a hypervisor."""

    def is_name(node: ast.AST) -> bool:
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            return any(map(is_name, node.elts))
        if isinstance(node, ast.Attribute):
            return node.attr in _NAMES
        return (isinstance(node, ast.Name) and node.id in _NAMES) or (
            isinstance(node, ast.Constant) and node.value in HYPERVISORS
        )

    found = []
    for node in ast.walk(ast.parse(source)):
        if (isinstance(node, ast.Compare) and any(map(is_name, (node.left, *node.comparators)))) or (
            isinstance(node, ast.MatchValue) and is_name(node.value)
        ):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_asks_for_a_hypervisors_name(path: Path) -> None:
    assert comparisons(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "x == 'proxmox'",
        "if vm.hypervisor != LIBVIRT: pass",
        "x in ('libvirt', 'proxmox')",
        "y = core.BARE is x",
        "match x:\n    case 'bare':\n        pass",
    ],
)
def test_negative_control_a_comparison_is_seen(source: str) -> None:
    assert len(comparisons(source)) == 1
