"""What differs between hypervisors is answered by one table, and nowhere by a comparison with a name."""

from __future__ import annotations

import ast
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


@pytest.mark.parametrize("name", HYPERVISORS)
def test_a_qemu_is_managed_by_whoever_started_it(name: str) -> None:
    assert hypervisors.manager_of(RUN_DIRS, line(WORDS[name])).name == name


def test_a_pid_file_of_libvirts_alone_tells_whose_a_qemu_is(tmp_path: Path) -> None:
    plain = ["qemu-system-x86_64", "-name", "guest=web", "-uuid", UUID]
    run_dirs = RunDirs(str(tmp_path), "/nowhere")
    assert hypervisors.manager_of(run_dirs, line(plain)).name == BARE
    (tmp_path / "web.pid").write_text("4000\n")
    assert hypervisors.manager_of(run_dirs, line(plain)).name == LIBVIRT
    assert hypervisors.manager_of(run_dirs, line(plain, 4001)).name == BARE


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
    assert not proxmox.is_qemu_of(RUN_DIRS, ["less", *WORDS[PROXMOX][1:]], "100")
    assert not proxmox.is_qemu_of(RUN_DIRS, [], "100")


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
