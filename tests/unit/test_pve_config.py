"""VMs on Proxmox as their configuration describes them. Each file of data/pve/vms says in its head what is expected:

lock MODE ROLE KEY FORMAT PATH [optional]   not KEY KIND   drop KEY   refuse TEXT   note KEYS
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmguard.core.sources.domain_xml import FILE
from vmguard.core.sources.pve_config import BUSES, Drive, is_vmid, parse_config, read_properties
from vmguard.core.sources.pve_plan import PveVm, plan_vm
from vmguard.core.sources.pve_storage import parse_storages
from vmguard.errors import BadInput, PlanError, VmguardError

DATA = Path(__file__).parent / "data/pve"
STORAGES = (DATA / "storage.cfg").read_bytes()
CASES = sorted((DATA / "vms").glob("*.conf"))


def head(path: Path) -> list[str]:
    text = path.read_bytes().decode()
    return [line.removeprefix("#= ").rstrip("\r") for line in text.split("\n") if line.startswith("#= ")]


def plan(data: bytes, vmid: str = "100", node: str = "node1") -> PveVm:
    return plan_vm(parse_config(data, vmid), parse_storages(STORAGES), node)


def described(vm: PveVm, dropped: list[tuple[str, str]]) -> list[str]:
    lines = []
    for source in vm.domain.sources:
        if source.kind == FILE:
            optional = " optional" if source.is_optional else ""
            lines.append(f"lock {source.mode} {source.role} {source.what} {source.format} {source.path}{optional}")
        else:
            lines.append(f"not {source.what} {source.kind}")
    keys = {key for key, _ in dropped}
    lines += [f"drop {key}" for key, _ in dropped]
    lines += [f"not {item.source} {item.kind}" for item in vm.domain.unguarded if item.source not in keys]
    lines += [f"note {note.removeprefix('changes of ').partition(' are pending')[0]}" for note in vm.notes]
    return sorted(lines)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_configuration_means_what_its_head_says(path: Path) -> None:
    expected = head(path)
    refusals = [line.removeprefix("refuse ") for line in expected if line.startswith("refuse ")]
    if refusals:
        with pytest.raises(PlanError) as refused:
            plan(path.read_bytes())
        assert refusals[0] in refused.value.message
        return
    config = parse_config(path.read_bytes(), "100")
    assert described(plan(path.read_bytes()), config.dropped) == sorted(expected)


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 60


def test_what_is_dropped_is_said_at_each_start() -> None:
    vm = plan(b"scsi0: nas:100/a.raw,cache=sometimes\n")
    assert [item.as_json() for item in vm.domain.unguarded] == [
        {"source": "scsi0", "reason": "Proxmox ignores this value: cache='sometimes' is not a value of that option"}
    ]


def test_a_drive_that_proxmox_may_drop_is_locked_and_said() -> None:
    """Negative control: the same drive with a value that Proxmox takes is neither optional nor mentioned."""
    doubtful, good = plan(b"scsi0: nas:100/a.raw,size=4GB\n"), plan(b"scsi0: nas:100/a.raw,size=4GiB\n")
    for vm, optional in ((doubtful, True), (good, False)):
        (source,) = vm.domain.sources
        assert (source.path, source.mode) == ("/mnt/pve/nas/images/100/a.raw", "exclusive")
        assert source.is_optional is optional
        assert bool(vm.domain.unguarded) is optional


def test_a_second_hookscript_that_is_none_does_not_undo_the_first() -> None:
    config = parse_config(b"hookscript: local:snippets/vmguard\nhookscript: nothing\n", "100")
    assert config.options["hookscript"] == "local:snippets/vmguard"
    assert [key for key, _ in config.dropped] == ["hookscript"]
    config = parse_config(b"hookscript: local:snippets/a\nhookscript: local:snippets/b\n", "100")
    assert config.options["hookscript"] == "local:snippets/b"


def test_qemu_probes_a_base_of_undeclared_format_here() -> None:
    assert plan(b"").domain.probes


def test_a_name_in_another_case_is_explained() -> None:
    with pytest.raises(PlanError) as refused:
        plan(b"scsi0: NAS:100/a.raw\n")
    assert "there is 'nas'" in refused.value.hint


def test_a_vm_without_a_name_is_called_by_its_number() -> None:
    assert plan(b"").domain.name == "100"
    assert plan(b"name: web\n").domain.name == "web"
    assert plan(b"name: web\n").domain.uuid == "100"


@pytest.mark.parametrize("vmid", ["", "1", "99", "0100", "1e3", "-100", "100 ", "1000000000", "١٠٠", "../100"])
def test_what_is_no_vmid(vmid: str) -> None:
    assert not is_vmid(vmid)
    with pytest.raises(BadInput):
        parse_config(b"", vmid)


@pytest.mark.parametrize("data", [b"scsi0: nas:100/a\0.raw\n", b"#" * (1 << 20) + b"x"])
def test_what_is_no_configuration(data: bytes) -> None:
    with pytest.raises(BadInput):
        parse_config(data, "100")


def test_bytes_that_are_no_utf8_stay_what_they_are() -> None:
    (source,) = plan(b"scsi0: nas:100/caf\xe9.raw\n").domain.sources
    assert source.path.encode(errors="surrogateescape") == b"/mnt/pve/nas/images/100/caf\xe9.raw"


@pytest.mark.parametrize(
    ("file", "yes"),
    [
        ("nas:100/vm-100-cloudinit.qcow2", True),
        ("lvm:vm-100-cloudinit", True),
        ("nas:cloudinit", True),
        ("nas:100/vm-x-cloudinit.raw", False),
        ("nas:100/my-cloudinit.raw", False),
        ("nas:100/vm-100-cloudinit.iso", False),
        ("cloudinit", False),
    ],
)
def test_cloud_init_is_told_by_its_name(file: str, yes: bool) -> None:
    assert Drive("ide2", "ide", file, {}, False).is_cloudinit is yes


# -- hostile input ---------------------------------------------------------------------------------------------------

_WORDS = st.sampled_from(
    (
        *("nas:100/a.raw", "local:100/b.qcow2", "none", "cdrom", "file=", "volume=nas:1/x.raw", "media=cdrom", "ro=1"),
        *("size=4G", "=", ":", "/dev/sda", "/x", "\0", "cache=none", "import-from=a", "\u2028", "\r", "nas:", ",,"),
    )
)
_VALUES = st.lists(_WORDS | st.text(max_size=8), max_size=6).map(",".join)
_KEYS = st.sampled_from([f"{bus}0" for bus in BUSES] + ["cdrom", "args", "template", "name", "[PENDING]", "[x]", "#"])
_LINES = st.tuples(_KEYS | st.text(max_size=6), st.sampled_from([": ", ":", " ", ""]), _VALUES).map("".join)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_LINES, max_size=12), st.binary(max_size=200))
def test_whatever_stands_there_only_our_own_errors_come_out(lines: list[str], noise: bytes) -> None:
    for data in ("\n".join(lines).encode(errors="surrogatepass"), noise):
        try:
            vm = plan(data)
        except VmguardError:
            continue
        for source in vm.domain.sources:
            assert source.kind != FILE or source.path.startswith("/")
            assert "/../" not in source.path or source.is_optional  # only an absolute path may say so


@given(st.text(max_size=60))
def test_a_property_string_is_read_as_far_as_it_goes(value: str) -> None:
    found, problem = read_properties(value, "file", {"volume": "file"})
    assert all(found.values())
    assert problem or len(found) <= value.count(",") + 1
    assert all(text for text in found.values())
