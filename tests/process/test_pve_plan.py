"""``vmguard plan`` for a VM on Proxmox: the same JSON as for libvirt, from any two files and for any node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.guard import make_disk
from vmguard.cli.main import main
from vmguard.core.sources.domain_xml import parse_domain
from vmguard.errors import BadInput

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    store = tmp_path / "store"
    for name in ("100/vm-100-disk-0.raw", "100/vm-100-disk-1.raw", "100/vm-100-disk-2.raw", "9/base-9-disk-0.raw"):
        (store / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        make_disk(store / "images" / name)
    (tmp_path / "storage.cfg").write_text(
        f"dir: store\n\tpath {store}\n\tnodes here\n\nlvm: blocks\n\tvgname x\n\ncifs: win\n\tserver s\n\tshare x\n"
    )
    (tmp_path / "100.conf").write_text(
        "scsi0: store:100/vm-100-disk-0.raw,size=1M\nscsi1: store:9/base-9-disk-0.raw,ro=1\n"
        "efidisk0: store:100/vm-100-disk-1.raw\ntpmstate0: store:100/vm-100-disk-2.raw\n"
        "scsi2: blocks:vm-100-disk-0\nscsi3: win:100/vm-100-disk-0.raw\nide2: store:iso/x.iso,media=cdrom\n"
        "unused0: store:100/gone.raw\nargs: -drive file=/x\nscsi4: store:100/x.raw,cache=sometimes\n"
    )
    return ["--pve-config", str(tmp_path / "100.conf"), "--storage-cfg", str(tmp_path / "storage.cfg")]


def test_it_is_printed_in_the_same_json_as_for_libvirt(files: list[str], tmp_path: Path, capsys: Capture) -> None:
    assert main(["plan", *files, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"files", "unguarded"}
    images = f"{tmp_path}/store/images"
    assert {(file["path"], file["mode"], file["role"], file["source"]) for file in found["files"]} == {
        (f"{images}/100/vm-100-disk-0.raw", "exclusive", "disk", "scsi0"),
        (f"{images}/9/base-9-disk-0.raw", "shared", "disk", "scsi1"),
        (f"{images}/100/vm-100-disk-1.raw", "exclusive", "nvram", "efidisk0"),
        (f"{images}/100/vm-100-disk-2.raw", "exclusive", "tpm-state", "tpmstate0"),
    }
    why = [(item["source"], item["reason"]) for item in found["unguarded"]]
    assert {source for source, _ in why} == {"scsi2", "scsi3", "args", "scsi4"}
    for source, words in (
        ("scsi2", "block device"),
        ("scsi3", "SMB"),
        ("scsi4", "Proxmox ignores this value"),
        ("scsi4", "100/x.raw does not exist, and the VM may start without it"),
    ):
        assert any(source == told and words in reason for told, reason in why)


@pytest.mark.parametrize("name", ["web.conf", "100.conf.bak", "vm-100.txt", "conf", "100", "99.conf"])
def test_a_configuration_may_have_any_name(files: list[str], tmp_path: Path, capsys: Capture, name: str) -> None:
    (tmp_path / "100.conf").rename(tmp_path / name)
    assert main(["plan", "--pve-config", str(tmp_path / name), *files[2:], "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 4


def test_a_configuration_comes_on_standard_input(
    files: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(tmp_path / "100.conf") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert main(["plan", "--pve-config", "-", *files[2:], "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 4


@pytest.mark.parametrize("uuid", ["", "<uuid/>", "<uuid>6f8b1c9e-0b1d-4b0a-9f0e-2a6f0d1c2b3a</uuid>"])
def test_a_domain_that_libvirt_has_yet_to_define_needs_no_uuid(tmp_path: Path, capsys: Capture, uuid: str) -> None:
    path = make_disk(tmp_path / "disk.raw")
    disk = f"<disk type='file'><source file='{path}'/><target dev='vda'/></disk>"
    (tmp_path / "vm.xml").write_text(f"<domain><name>web</name>{uuid}<devices>{disk}</devices></domain>")
    assert main(["plan", "--domain-xml", str(tmp_path / "vm.xml"), "--json"]) == 0
    assert [file["path"] for file in json.loads(capsys.readouterr().out)["files"]] == [str(path)]


def test_a_domain_without_a_name_is_planned_too(tmp_path: Path, capsys: Capture) -> None:
    path = make_disk(tmp_path / "disk.raw")
    xml = f"<domain><devices><disk type='file'><source file='{path}'/></disk></devices></domain>"
    (tmp_path / "vm.xml").write_text(xml)
    assert main(["plan", "--domain-xml", str(tmp_path / "vm.xml"), "--json"]) == 0
    assert [file["path"] for file in json.loads(capsys.readouterr().out)["files"]] == [str(path)]
    with pytest.raises(BadInput, match="names no VM"):  # negative control: the hook's is defined
        parse_domain(xml.encode())


@pytest.mark.parametrize("word", ["--name", "--uuid", "--vmid", "--domain-xml", "--pve-config"])
def test_an_empty_word_is_nobodys_name(capsys: Capture, word: str) -> None:
    assert main(["plan", word, ""]) == 3
    assert "''" in capsys.readouterr().err


def test_a_configuration_without_storages_says_where_they_come_from(
    files: list[str], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "vmguard.yaml").write_text(f"proxmox: {{config_dir: {tmp_path}/none}}\n")
    (tmp_path / "vmguard.yaml").chmod(0o644)
    assert main(["plan", *files[:2], "--config", str(tmp_path / "vmguard.yaml")]) == 3
    assert "--storage-cfg FILE" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["--domain-xml", "--pve-config"])
def test_a_file_without_end_is_not_read_to_its_end(capsys: Capture, word: str) -> None:
    assert main(["plan", word, "/dev/zero"]) == 3
    assert "'/dev/zero': " in capsys.readouterr().err


def test_a_hook_needs_the_uuid_and_so_does_no_nonsense_pass(tmp_path: Path, capsys: Capture) -> None:
    """Negative control: libvirt has given a VM its uuid before it calls a hook."""
    with pytest.raises(BadInput, match="holds no <uuid>"):
        parse_domain(b"<domain><name>web</name></domain>")
    (tmp_path / "vm.xml").write_text("<domain><name>web</name><uuid>7</uuid></domain>")
    assert main(["plan", "--domain-xml", str(tmp_path / "vm.xml")]) == 3
    assert "'7' is not a UUID" in capsys.readouterr().err


def test_a_storage_counts_only_on_its_nodes(files: list[str], capsys: Capture) -> None:
    assert main(["plan", *files, "--node", "here"]) == 0
    assert main(["plan", *files, "--node", "there"]) == 2
    assert "it is not meant for node there, only for here" in capsys.readouterr().err
