"""Corners of chains: data files below what is no file, and what a start may do without or QEMU reads by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.process.test_backing_chain import disk, domain, modes, notes
from tests.support.qemu_img import create, overlay
from vmguard.adapters.storage.backing_chain import plan_of, resolve
from vmguard.adapters.storage.files import NotAFile, ReadOnlyOpener
from vmguard.adapters.storage.libvirt_pools import Pools
from vmguard.adapters.storage.path_walk import Found
from vmguard.core.locks.plan import EXCLUSIVE, SHARED
from vmguard.core.sources.domain_xml import Domain, Source
from vmguard.errors import PlanError

STORE = "<dataStore type='file'><format type='raw'/><source file='{0}/data'/></dataStore>"
ON_BLOCKS = "<source dev='/dev/sdz'>{store}</source>"
ON_THE_NETWORK = "<source protocol='nbd' name='x'><host name='h'/>{store}</source>"
BELOW = "<source file='{0}/a'/><backingStore type='{type}'><format type='qcow2'/>{source}<backingStore/></backingStore>"
#: where the image lies whose data file the XML names: type of the disk, what is in it, mode of the data file
IMAGES_ELSEWHERE = {
    "a block device": ("block", ON_BLOCKS, EXCLUSIVE),
    "a block device, read-only": ("block", ON_BLOCKS + "<readonly/>", SHARED),
    "the network": ("network", ON_THE_NETWORK, EXCLUSIVE),
    "a block device below a file": ("file", BELOW.replace("{type}", "block").replace("{source}", ON_BLOCKS), SHARED),
    "the network, below a file": (
        "file",
        BELOW.replace("{type}", "network").replace("{source}", ON_THE_NETWORK),
        SHARED,
    ),
    "an image that another program opened": ("file", "<source file='/x' fdgroup='g'>{store}</source>", EXCLUSIVE),
    "a file that leads to a block device": ("file", "<source file='/dev/loop0'>{store}</source>", EXCLUSIVE),
}


class WithDevices(ReadOnlyOpener):
    """Whatever lies in /dev is a block device: not every machine has one."""

    __slots__ = ()

    def _find(self, path: str) -> Found:
        if path.startswith("/dev/"):
            raise NotAFile("disk", path, "block device")
        return super()._find(path)


@pytest.mark.parametrize("where", IMAGES_ELSEWHERE)
def test_a_data_file_is_the_guests_data_wherever_its_image_lies(tmp_path: Path, where: str) -> None:
    kind, inside, mode = IMAGES_ELSEWHERE[where]
    create(tmp_path / "a")
    create(tmp_path / "data", format="raw")
    inside = inside.replace("{store}", STORE).replace("{0}", str(tmp_path))
    xml = domain(f"<disk type='{kind}'><driver type='qcow2'/>{inside}<target dev='vda'/></disk>")
    plan = plan_of(xml, WithDevices())
    assert modes(plan)["data"] == (mode, "data-file")
    assert len(plan.unguarded) == 1  # negative control: the image itself is no file, and that is said


def test_what_only_the_header_on_a_block_device_names_is_said_to_be_unguarded() -> None:
    def told(format: str, inside: str = "") -> str:
        source = f"<source dev='/dev/sdz'>{inside}</source>{'<backingStore/>' if inside else ''}"
        xml = f"<disk type='block'><driver type='{format}'/>{source}<target dev='vda'/></disk>"
        return next(item.reason for item in plan_of(domain(xml)).unguarded if item.kind == "block")

    assert "only its header names" in told("qcow2")
    assert "only its header names" not in told("raw")
    store = "<dataStore type='network'><format type='raw'/><source protocol='nbd' name='x'/></dataStore>"
    assert "only its header names" not in told("qcow2", store)


def test_a_disk_that_is_left_out_leaves_its_data_file_out(tmp_path: Path) -> None:
    store = STORE.replace("{0}", str(tmp_path))
    xml = f"<disk device='cdrom'><source file='{tmp_path}/gone' startupPolicy='optional'>{store}</source></disk>"
    assert notes(plan_of(domain(xml))) == [("cdrom ?", "missing")]


VOLUME = "<disk type='volume' device='cdrom'><source pool='gone' volume='a.iso'{0}/><target dev='sda'/></disk>"


@pytest.mark.parametrize("policy", ["optional", "requisite"])
def test_an_optional_volume_of_a_pool_that_nobody_knows_is_left_out(tmp_path: Path, policy: str) -> None:
    xml = domain(VOLUME.replace("{0}", f" startupPolicy='{policy}'"))
    plan = plan_of(xml, pools=Pools((str(tmp_path),)))
    assert (plan.files, notes(plan)) == ([], [("cdrom sda", "missing")])
    assert "storage pool 'gone' is not known" in plan.unguarded[0].reason


def test_any_other_trouble_with_a_pool_is_refused(tmp_path: Path) -> None:
    """Negative control: libvirt knows these pools, or cannot do without the volume."""
    pools = Pools((str(tmp_path),))
    with pytest.raises(PlanError, match="is not known"):
        plan_of(domain(VOLUME.replace("{0}", "")), pools=pools)
    (tmp_path / "gone.xml").write_text("<pool")
    with pytest.raises(PlanError, match="not well formed"):
        plan_of(domain(VOLUME.replace("{0}", " startupPolicy='optional'")), pools=pools)


@pytest.mark.parametrize("names", ["no format", "no format, relative"])
def test_proxmox_starts_a_clone_whose_header_states_no_format(tmp_path: Path, names: str) -> None:
    """As Proxmox made linked clones once. QEMU probes the base; libvirt refuses it."""
    create(tmp_path / "secret", format="raw")
    overlay(tmp_path / "base", f"{tmp_path}/secret", "raw")
    top = overlay(tmp_path / "clone", "base" if "relative" in names else f"{tmp_path}/base")
    forget_backing_format(top)
    found = Domain("web1", "100", probes=True)
    found.sources.append(Source("scsi0", "file", str(top), EXCLUSIVE, "disk", "qcow2"))
    resolved = resolve(found, ReadOnlyOpener())
    resolved.close()
    assert set(modes(resolved.plan)) == {"clone", "base", "secret"}
    with pytest.raises(PlanError, match="does not say so"):
        plan_of(domain(disk(top)))


def forget_backing_format(image: Path) -> None:
    """Turn the header's extension into one that means nothing."""
    data = bytearray(image.read_bytes())
    place = data.index((0xE2792ACA).to_bytes(4, "big"))
    data[place : place + 4] = (0x12345678).to_bytes(4, "big")
    image.write_bytes(data)
