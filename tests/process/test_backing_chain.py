"""Chains of real images: which files a VM has, in which mode, and that qemu-img sees the same ones."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disk_images import image
from tests.support.qemu_img import create, overlay
from vmguard.adapters.storage.backing_chain import MAX_CHAIN, plan_of, resolve
from vmguard.adapters.storage.files import Opener, ReadOnlyOpener
from vmguard.adapters.storage.libvirt_pools import Pools
from vmguard.adapters.storage.path_walk import Found
from vmguard.core.locks.plan import EXCLUSIVE, SHARED, Plan
from vmguard.core.sources.domain_xml import parse_domain
from vmguard.errors import PlanError

UUID = "6f8b1c9e-0b1d-4b0a-9f0e-2a6f0d1c2b3a"


def disk(path: object, format: str = "qcow2", inside: str = "", dev: str = "vda", device: str = "disk") -> str:
    return (
        f"<disk type='file' device='{device}'><driver type='{format}'/><source file='{path}'/>"
        f"{inside}<target dev='{dev}'/></disk>"
    )


def domain(*devices: str, os_part: str = "") -> bytes:
    return (
        f"<domain><name>web1</name><uuid>{UUID}</uuid><os>{os_part}</os><devices>{''.join(devices)}</devices></domain>"
    ).encode()


def modes(plan: Plan) -> dict[str, tuple[str, str]]:
    """File name to mode and role."""
    return {os.path.basename(file.path): (file.mode, file.role) for file in plan.files}


def notes(plan: Plan) -> list[tuple[str, str]]:
    return [(item.source, item.kind) for item in plan.unguarded]


@pytest.fixture(autouse=True)
def no_descriptor_left(tmp_path: Path) -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


# --- roles and modes ------------------------------------------------------------------------------------------------


def test_a_raw_disk_is_one_exclusive_file(tmp_path: Path) -> None:
    create(tmp_path / "a.img", format="raw")
    plan = plan_of(domain(disk(tmp_path / "a.img", "raw")))
    assert modes(plan) == {"a.img": (EXCLUSIVE, "disk")}
    assert plan.as_json() == {
        "files": [{"path": f"{tmp_path}/a.img", "mode": "exclusive", "role": "disk", "source": "disk vda"}],
        "unguarded": [],
    }


def test_a_chain_is_shared_below_its_top(tmp_path: Path) -> None:
    create(tmp_path / "template.img", format="raw")
    overlay(tmp_path / "base.qcow2", f"{tmp_path}/template.img", "raw")
    overlay(tmp_path / "a.qcow2", f"{tmp_path}/base.qcow2")
    plan = plan_of(domain(disk(tmp_path / "a.qcow2")))
    assert modes(plan) == {
        "a.qcow2": (EXCLUSIVE, "disk"),
        "base.qcow2": (SHARED, "backing"),
        "template.img": (SHARED, "backing"),
    }
    assert {file.source for file in plan.files} == {
        "disk vda",
        f"backing of {tmp_path}/a.qcow2",
        f"backing of {tmp_path}/base.qcow2",
    }


def test_the_content_of_a_raw_disk_is_never_followed(tmp_path: Path) -> None:
    """The guest wrote a qcow2 header into its disk that names a file of the host."""
    create(tmp_path / "secret", format="raw")
    overlay(tmp_path / "a.img", f"{tmp_path}/secret", "raw")
    assert modes(plan_of(domain(disk(tmp_path / "a.img", "raw")))) == {"a.img": (EXCLUSIVE, "disk")}


def test_nor_that_of_a_backing_image_whose_format_nobody_declared(tmp_path: Path) -> None:
    create(tmp_path / "secret", format="raw")
    overlay(tmp_path / "base", f"{tmp_path}/secret", "raw")
    overlay(tmp_path / "a.qed", f"{tmp_path}/base", format="qed")
    with pytest.raises(PlanError, match=r"'.*/base' is a qcow2 image with files below it") as caught:
        plan_of(domain(disk(tmp_path / "a.qed", "qed")))
    assert "rebase" in caught.value.hint


def test_an_undeclared_backing_image_with_nothing_below_is_fine(tmp_path: Path) -> None:
    create(tmp_path / "base")
    overlay(tmp_path / "a.qed", f"{tmp_path}/base", format="qed")
    plan = plan_of(domain(disk(tmp_path / "a.qed", "qed")))
    assert modes(plan) == {"a.qed": (EXCLUSIVE, "disk"), "base": (SHARED, "backing")}


@pytest.mark.parametrize(("inside", "mode"), [("", EXCLUSIVE), ("<readonly/>", SHARED), ("<shareable/>", SHARED)])
def test_a_data_file_has_the_mode_of_its_image(tmp_path: Path, inside: str, mode: str) -> None:
    create(tmp_path / "a.qcow2", "-o", f"data_file={tmp_path}/a.data")
    plan = plan_of(domain(disk(tmp_path / "a.qcow2", inside=inside)))
    assert modes(plan) == {"a.qcow2": (mode, "disk"), "a.data": (mode, "data-file")}


def test_a_data_file_of_a_backing_image_is_shared(tmp_path: Path) -> None:
    create(tmp_path / "base", "-o", f"data_file={tmp_path}/base.data")
    overlay(tmp_path / "a", f"{tmp_path}/base")
    found = modes(plan_of(domain(disk(tmp_path / "a"))))
    assert found["base.data"] == (SHARED, "data-file")


def test_a_file_that_one_disk_backs_on_and_another_writes_to(tmp_path: Path) -> None:
    create(tmp_path / "base")
    overlay(tmp_path / "a", f"{tmp_path}/base")
    opener = Counting()
    for order in (("a", "base"), ("base", "a")):
        devices = [disk(tmp_path / name, dev=f"vd{letter}") for name, letter in zip(order, "ab", strict=True)]
        found = modes(plan_of(domain(*devices), opener))
        assert found == {"a": (EXCLUSIVE, "disk"), "base": (EXCLUSIVE, "disk")}
    assert opener.opened == 4


def test_one_file_under_three_names_is_locked_once(tmp_path: Path) -> None:
    create(tmp_path / "a.img", format="raw")
    os.link(tmp_path / "a.img", tmp_path / "hard")
    (tmp_path / "soft").symlink_to("a.img")
    devices = [
        disk(tmp_path / name, "raw", "<readonly/>" * (name != "soft"), dev)
        for name, dev in [("a.img", "vda"), ("hard", "vdb"), ("soft", "vdc")]
    ]
    assert modes(plan_of(domain(*devices))) == {"soft": (EXCLUSIVE, "disk")}


def test_a_running_block_job_writes_to_its_mirror(tmp_path: Path) -> None:
    create(tmp_path / "base")
    overlay(tmp_path / "top", f"{tmp_path}/base")
    mirror = f"<mirror type='file' job='active-commit'><format type='qcow2'/><source file='{tmp_path}/base'/></mirror>"
    found = modes(plan_of(domain(disk(tmp_path / "top", inside=mirror))))
    assert found == {"top": (EXCLUSIVE, "disk"), "base": (EXCLUSIVE, "mirror")}


def test_a_chain_given_in_xml_is_believed_more_than_the_header(tmp_path: Path) -> None:
    for name in ("told", "written"):
        create(tmp_path / name, format="raw")
    overlay(tmp_path / "a", f"{tmp_path}/written", "raw")
    given = f"<backingStore type='file'><format type='raw'/><source file='{tmp_path}/told'/></backingStore>"
    assert set(modes(plan_of(domain(disk(tmp_path / "a", inside=given))))) == {"a", "told"}
    assert set(modes(plan_of(domain(disk(tmp_path / "a", inside="<backingStore/>"))))) == {"a"}


def test_a_chain_given_in_part_goes_on_in_the_header(tmp_path: Path) -> None:
    create(tmp_path / "base")
    overlay(tmp_path / "middle", f"{tmp_path}/base")
    overlay(tmp_path / "a", f"{tmp_path}/middle")
    given = f"<backingStore type='file'><format type='qcow2'/><source file='{tmp_path}/middle'/></backingStore>"
    assert set(modes(plan_of(domain(disk(tmp_path / "a", inside=given))))) == {"a", "middle", "base"}


def test_a_file_below_a_network_disk(tmp_path: Path) -> None:
    create(tmp_path / "base")
    xml = (
        "<disk type='network'><driver type='qcow2'/><source protocol='nbd' name='x'><host name='h'/></source>"
        f"<backingStore type='file'><format type='qcow2'/><source file='{tmp_path}/base'/><backingStore/>"
        "</backingStore><target dev='vda'/></disk>"
    )
    plan = plan_of(domain(xml))
    assert (modes(plan), notes(plan)) == ({"base": (SHARED, "backing")}, [("disk vda", "network")])


def test_a_network_image_below_a_file(tmp_path: Path) -> None:
    overlay(tmp_path / "a", "nbd://host/x", "raw")
    plan = plan_of(domain(disk(tmp_path / "a")))
    assert (set(modes(plan)), notes(plan)) == ({"a"}, [(f"backing of {tmp_path}/a", "network")])


def test_an_image_inside_a_slice(tmp_path: Path) -> None:
    create(tmp_path / "base")
    overlay(tmp_path / "inner", f"{tmp_path}/base")
    (tmp_path / "outer").write_bytes(bytes(10_000) + (tmp_path / "inner").read_bytes())
    xml = disk(tmp_path / "outer").replace(
        "'/><target", "'><slices><slice type='storage' offset='10000' size='262144'/></slices></source><target"
    )
    assert set(modes(plan_of(domain(xml)))) == {"outer", "base"}


def test_a_volume_is_found_in_its_pool(tmp_path: Path) -> None:
    create(tmp_path / "a.qcow2")
    (tmp_path / "images.xml").write_text(
        f"<pool type='dir'><name>images</name><target><path>{tmp_path}</path></target></pool>"
    )
    xml = "<disk type='volume'><driver type='qcow2'/><source pool='images' volume='a.qcow2'/><target dev='vda'/></disk>"
    assert modes(plan_of(domain(xml), pools=Pools((str(tmp_path),)))) == {"a.qcow2": (EXCLUSIVE, "disk")}


# --- what is not there ----------------------------------------------------------------------------------------------


def test_a_mandatory_disk_that_is_missing_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=rf"disk vda: '{tmp_path}/gone' does not exist"):
        plan_of(domain(disk(tmp_path / "gone")))


def test_a_missing_link_names_parent_and_child(tmp_path: Path) -> None:
    overlay(tmp_path / "a", f"{tmp_path}/gone")
    with pytest.raises(PlanError, match=rf"disk vda: backing of {tmp_path}/a: '{tmp_path}/gone' does not exist"):
        plan_of(domain(disk(tmp_path / "a")))


@pytest.mark.parametrize("policy", ["optional", "requisite"])
def test_an_optional_disk_that_is_missing_is_left_out(tmp_path: Path, policy: str) -> None:
    xml = disk(tmp_path / "gone.iso", "raw", device="cdrom").replace("/><target", f" startupPolicy='{policy}'/><target")
    plan = plan_of(domain(xml))
    assert (plan.files, notes(plan)) == ([], [("cdrom vda", "missing")])


def test_files_that_the_first_start_makes(tmp_path: Path) -> None:
    tpm = f"<tpm><backend type='emulator'><source type='file' path='{tmp_path}/tpm'/></backend></tpm>"
    xml = domain(tpm, os_part=f"<nvram>{tmp_path}/vars</nvram>")
    plan = plan_of(xml)
    assert (plan.files, notes(plan)) == ([], [("nvram", "missing"), ("tpm", "missing")])
    for name in ("vars", "tpm"):
        create(tmp_path / name, format="raw")
    found = plan_of(xml)
    assert modes(found) == {"vars": (EXCLUSIVE, "nvram"), "tpm": (EXCLUSIVE, "tpm-state")}


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_relative_name_counts_from_the_image_as_it_was_named(tmp_path: Path) -> None:
    """A symbolic link to the image moves its directory, as with QEMU."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        create(tmp_path / name / "base")
    overlay(tmp_path / "one" / "a", "base")
    (tmp_path / "two" / "link").symlink_to("../one/a")
    found = [file.path for file in plan_of(domain(disk(tmp_path / "two" / "link"))).files]
    assert sorted(found) == [f"{tmp_path}/two/base", f"{tmp_path}/two/link"]


def test_a_link_of_the_chain_that_is_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    create(tmp_path / "real" / "base")
    (tmp_path / "link").symlink_to("real")
    overlay(tmp_path / "a", "link/../base")
    with pytest.raises(PlanError, match="does not exist"):
        plan_of(domain(disk(tmp_path / "a")))
    overlay(tmp_path / "b", "link/base")
    assert set(modes(plan_of(domain(disk(tmp_path / "b"))))) == {"b", "base"}


ODD_NAMES = ["-rf", "a b", 'it\'s "it"', "new\nline", "ünï", "%20", "{}", "a" * 200]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_of_backing_images(tmp_path: Path, name: str) -> None:
    create(tmp_path / "plain")
    (tmp_path / "plain").rename(tmp_path / name)
    overlay(tmp_path / "a", f"./{name}")
    assert set(modes(plan_of(domain(disk(tmp_path / "a"))))) == {"a", name}


# --- loops and lengths ----------------------------------------------------------------------------------------------


def test_a_long_chain_is_walked_to_its_end_and_one_without_end_is_refused(tmp_path: Path) -> None:
    create(tmp_path / "0")
    for number in range(1, MAX_CHAIN + 1):
        image(tmp_path / str(number), f"{number - 1}")
    assert len(plan_of(domain(disk(tmp_path / f"{MAX_CHAIN - 1}"))).files) == MAX_CHAIN
    with pytest.raises(PlanError, match=f"longer than {MAX_CHAIN} images"):
        plan_of(domain(disk(tmp_path / f"{MAX_CHAIN}")))


# --- what it costs, and in which order -----------------------------------------------------------------------------


class Counting(ReadOnlyOpener):
    __slots__ = ("opened",)

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0

    def _open_direct(self, found: Found, flags: int) -> int:
        self.opened += 1
        return super()._open_direct(found, flags)


def test_every_path_is_opened_once(tmp_path: Path) -> None:
    create(tmp_path / "base")
    devices = []
    for number in range(5):
        overlay(tmp_path / f"a{number}", f"{tmp_path}/base")
        devices.append(disk(tmp_path / f"a{number}", dev=f"vd{number}"))
    opener = Counting()
    plan_of(domain(*devices), opener)
    assert opener.opened == 6


def test_a_claim_opens_for_writing_and_for_direct_io_and_both_lists_agree(tmp_path: Path) -> None:
    create(tmp_path / "base")
    overlay(tmp_path / "a", f"{tmp_path}/base")
    resolved = resolve(parse_domain(domain(disk(tmp_path / "a"))), Opener())
    try:
        assert [file.path for file in resolved.files] == [planned.path for planned in resolved.plan.files]
        inodes = [os.stat(file.path).st_ino for file in resolved.files]
        assert inodes == sorted(inodes) == [file.key[1] for file in resolved.files]
        for file, planned in resolved.pairs():
            flags = flags_of(file.fd)
            assert flags & os.O_ACCMODE == (os.O_RDWR if planned.mode == EXCLUSIVE else os.O_RDONLY)
            assert flags & os.O_DIRECT or not direct_works(tmp_path)
            assert flags & os.O_CLOEXEC
    finally:
        resolved.close()


def test_a_plan_only_reads(tmp_path: Path) -> None:
    create(tmp_path / "a")
    resolved = resolve(parse_domain(domain(disk(tmp_path / "a"))), ReadOnlyOpener())
    assert flags_of(resolved.files[0].fd) & (os.O_ACCMODE | os.O_DIRECT) == os.O_RDONLY
    resolved.close()
    resolved.close()


def flags_of(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}") as lines:
        return int(next(line for line in lines if line.startswith("flags:")).split()[1], 8)


def direct_works(directory: Path) -> bool:
    try:
        os.close(os.open(directory / "probe", os.O_CREAT | os.O_RDWR | os.O_DIRECT))
    except OSError as problem:
        if problem.errno == errno.EINVAL:
            return False
        raise
    return True


def test_a_file_system_without_direct_io() -> None:
    """Where O_DIRECT is not known the open goes without it (tmpfs before Linux 6.6, FUSE)."""

    class Refusing(Opener):
        __slots__ = ()

        def _open_as_anyone(self, found: Found, flags: int) -> int:
            if flags & os.O_DIRECT:
                raise OSError(errno.EINVAL, "invalid argument")
            return super()._open_as_anyone(found, flags)

    file = Refusing().open(__file__, EXCLUSIVE, "disk vda")
    try:
        assert file.read(3) == b'"""'
        assert file.read(40, 4000)
        assert file.read(10, file.size + 5000) == b""
    finally:
        file.close()
