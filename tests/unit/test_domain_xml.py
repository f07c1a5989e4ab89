"""Domain XML: what a VM stores where, one row per rule."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmguard.core.sources.domain_xml import Domain, Source, parse_domain
from vmguard.core.sources.xml_tree import MAX_BYTES
from vmguard.errors import BadInput

DATA = os.path.join(os.path.dirname(__file__), "data", "domains")
UUID = "6f8b1c9e-0b1d-4b0a-9f0e-2a6f0d1c2b3a"


def domain(devices: str = "", os_part: str = "", name: str = "web1", extra: str = "") -> bytes:
    return (
        f"<domain type='kvm'><name>{name}</name><uuid>{UUID}</uuid><os>{os_part}</os>"
        f"<devices>{devices}</devices>{extra}</domain>"
    ).encode()


def disk(inside: str, attributes: str = "type='file' device='disk'") -> str:
    return f"<disk {attributes}>{inside}<target dev='vda'/></disk>"


def stored(name: str) -> bytes:
    with open(os.path.join(DATA, name), "rb") as file:
        return file.read()


def brief(source: Source) -> tuple[str, str, str, str]:
    return source.what, source.path, source.mode, source.role


QCOW2 = "<driver type='qcow2'/>"
A = "<source file='/srv/a'/>"

# what the rule is: the devices, then what, path, mode and role of the one source that comes out
DEVICE_RULES = {
    "a disk is the VM's own": (disk(QCOW2 + A), ("disk vda", "/srv/a", "exclusive", "disk")),
    "the type is file unless stated": (disk(A, ""), ("disk vda", "/srv/a", "exclusive", "disk")),
    "readonly is shared": (disk(A + "<readonly/>"), ("disk vda", "/srv/a", "shared", "disk")),
    "shareable is shared": (disk(A + "<shareable/>"), ("disk vda", "/srv/a", "shared", "disk")),
    "a cdrom is never written": (disk(A, "device='cdrom'"), ("cdrom vda", "/srv/a", "shared", "disk")),
    "a floppy is written": (disk(A, "device='floppy'"), ("floppy vda", "/srv/a", "exclusive", "disk")),
    "unless it is read-only": (disk(A + "<readonly/>", "device='floppy'"), ("floppy vda", "/srv/a", "shared", "disk")),
    "transient: QEMU opens it writable first": (
        disk(A + "<transient/>"),
        ("disk vda", "/srv/a", "exclusive", "disk"),
    ),
    "transient and shared: an overlay each": (
        disk(A + "<transient shareBacking='yes'/>"),
        ("disk vda", "/srv/a", "shared", "disk"),
    ),
    "a slice takes the whole file": (
        disk("<source file='/srv/a'><slices><slice type='storage' offset='4096' size='8192'/></slices></source>"),
        ("disk vda", "/srv/a", "exclusive", "disk"),
    ),
    "escapes are undone": (
        disk("<source file='/srv/a&amp;b&#10;c'/>"),
        ("disk vda", "/srv/a&b\nc", "exclusive", "disk"),
    ),
    "TPM state in a file": (
        "<tpm><backend type='emulator'><source type='file' path='/srv/tpm'/></backend></tpm>",
        ("tpm", "/srv/tpm", "exclusive", "tpm-state"),
    ),
    "an NVDIMM is written": (
        "<memory model='nvdimm'><source><path>/srv/n</path></source><target/></memory>",
        ("memory nvdimm", "/srv/n", "exclusive", "memory"),
    ),
    "unless it is read-only ": (
        "<memory model='nvdimm'><source><path>/srv/n</path></source><target><readonly/></target></memory>",
        ("memory nvdimm", "/srv/n", "shared", "memory"),
    ),
    "or private": (
        "<memory model='virtio-pmem' access='private'><source><path>/srv/n</path></source><target/></memory>",
        ("memory virtio-pmem", "/srv/n", "shared", "memory"),
    ),
    "a pstore is written": (
        "<pstore backend='acpi-erst'><path>/srv/erst</path></pstore>",
        ("pstore", "/srv/erst", "exclusive", "memory"),
    ),
}

OS_RULES = {
    "firmware is shared by all VMs": (
        "<loader readonly='yes' type='pflash'>/fw</loader>",
        ("loader", "/fw", "shared", "loader"),
    ),
    "a pflash that does not say so is written": (
        "<loader type='pflash'>/fw</loader>",
        ("loader", "/fw", "exclusive", "loader"),
    ),
    "of what type is not said: a rom": ("<loader>/fw</loader>", ("loader", "/fw", "shared", "loader")),
    "a rom that does not say so": ("<loader type='rom'>/fw</loader>", ("loader", "/fw", "shared", "loader")),
    "a rom is never written": ("<loader readonly='no' type='rom'>/fw</loader>", ("loader", "/fw", "shared", "loader")),
    "a writable pflash is the VM's own": (
        "<loader readonly='no' type='pflash'>/fw</loader>",
        ("loader", "/fw", "exclusive", "loader"),
    ),
    "NVRAM as text": ("<nvram template='/t'>/srv/v</nvram>", ("nvram", "/srv/v", "exclusive", "nvram")),
    "NVRAM as a source": (
        "<nvram type='file'><source file='/srv/v'/></nvram>",
        ("nvram", "/srv/v", "exclusive", "nvram"),
    ),
    "a variable store": ("<varstore path='/srv/v'/>", ("nvram", "/srv/v", "exclusive", "nvram")),
}


@pytest.mark.parametrize("rule", DEVICE_RULES)
def test_a_device_becomes_a_source(rule: str) -> None:
    xml, expected = DEVICE_RULES[rule]
    (source,) = parse_domain(domain(xml)).sources
    assert brief(source) == expected


@pytest.mark.parametrize("rule", OS_RULES)
def test_firmware_becomes_a_source(rule: str) -> None:
    xml, expected = OS_RULES[rule]
    (source,) = parse_domain(domain(os_part=xml)).sources
    assert brief(source) == expected


@pytest.mark.parametrize(
    ("said", "mode"), [("", "shared"), ("readonly='yes'", "shared"), ("readonly='no'", "exclusive")]
)
def test_firmware_that_libvirt_chooses_is_read_only_unless_it_says_otherwise(said: str, mode: str) -> None:
    xml = domain(os_part=f"<loader type='pflash' {said}>/fw</loader><nvram>/srv/v</nvram>")
    loader, nvram = parse_domain(xml.replace(b"<os>", b"<os firmware='efi'>")).sources
    assert (loader.mode, nvram.mode) == (mode, "exclusive")


NOTHING = {
    "an empty cdrom": disk("", "device='cdrom'"),
    "an empty cdrom of a running VM": disk("<source index='1'/>", "device='cdrom'"),
    "an empty file name": disk("<source file=''/>", "device='cdrom'"),
    "an empty drive of type block": disk("<source/>", "type='block' device='cdrom'"),
    "a log": "<serial type='file'><source path='/var/log/a'/></serial>",
    "memory that is not kept": "<memory model='dimm'><source><pagesize>4</pagesize></source><target/></memory>",
    "the host's own TPM": "<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>",
    "a pSeries NVRAM device": "<nvram><address type='spapr-vio'/></nvram>",
}


@pytest.mark.parametrize("what", NOTHING)
def test_what_stores_nothing_is_not_mentioned(what: str) -> None:
    result = parse_domain(domain(NOTHING[what]))
    assert (result.sources, result.unguarded) == ([], [])


def test_a_kernel_is_only_read_at_start() -> None:
    result = parse_domain(domain(os_part="<kernel>/k</kernel><initrd>/i</initrd><dtb>/d</dtb>"))
    assert (result.sources, result.unguarded) == ([], [])


# kind of a source that is no file here, and a word of what people are told
ELSEWHERE = {
    "block": (disk("<source dev='/dev/sdb'/>", "type='block'"), "block", "/dev/sdb is a block device"),
    "lun": (disk("<source dev='/dev/sdb'/>", "type='block' device='lun'"), "block", "/dev/sdb"),
    "dir": (disk("<source dir='/srv/d'/>", "type='dir'"), "directory", "/srv/d is a directory"),
    "network": (
        disk("<source protocol='nbd' name='x'><host name='h1'/><host name='h2'/></source>", "type='network'"),
        "network",
        "nbd storage 'x' on h1, h2",
    ),
    "nbd without a name": (
        disk("<source protocol='nbd'><host transport='unix' socket='/s'/></source>", "type='network'"),
        "network",
        "nbd storage '' on /s",
    ),
    "nvme": (disk("<source type='pci' managed='yes'/>", "type='nvme'"), "other", "NVMe"),
    "vhost-user": (disk("<source type='unix' path='/s'/>", "type='vhostuser'"), "other", "another process"),
    "what libvirt may yet invent": (disk("<source x='y'/>", "type='quantum'"), "other", "'quantum'"),
    "a descriptor of another program": (disk("<source file='/a' fdgroup='g'/>"), "other", "fdgroup"),
}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_a_disk_that_is_no_file_says_why(what: str) -> None:
    xml, kind, words = ELSEWHERE[what]
    (source,) = parse_domain(domain(xml)).sources
    assert source.kind == kind
    assert words in source.path


UNGUARDED = {
    "directories of the host": (
        "<filesystem><source dir='/srv/s'/><target dir='t'/></filesystem>",
        "directory",
        "/srv/s",
    ),
    "external virtiofsd": (
        "<filesystem><source socket='/s'/><target dir='t'/></filesystem>",
        "directory",
        "/s is shared",
    ),
    "a PCI device": ("<hostdev mode='subsystem' type='pci'><source/></hostdev>", "other", "pci device"),
    "a SCSI device": ("<hostdev mode='subsystem' type='scsi'><source/></hostdev>", "block", "scsi device"),
    "an iSCSI device": ("<hostdev type='scsi'><source protocol='iscsi'/></hostdev>", "network", "iSCSI"),
    "swtpm's own directory": ("<tpm><backend type='emulator'/></tpm>", "directory", f"swtpm/{UUID}"),
    "swtpm's given directory": (
        "<tpm><backend type='emulator'><source type='dir' path='/srv/t'/></backend></tpm>",
        "directory",
        "/srv/t",
    ),
    "a foreign swtpm": ("<tpm><backend type='external'><source path='/s'/></backend></tpm>", "other", "somebody else"),
}


@pytest.mark.parametrize("what", UNGUARDED)
def test_what_no_lock_can_guard_is_said(what: str) -> None:
    xml, kind, words = UNGUARDED[what]
    (item,) = parse_domain(domain(xml)).unguarded
    assert item.kind == kind
    assert words in item.reason


@pytest.mark.parametrize("os_part", ["<nvram template='/t'/>", "<nvram/>"])
def test_nvram_that_libvirt_has_yet_to_name(os_part: str) -> None:
    (item,) = parse_domain(domain(os_part=os_part)).unguarded
    assert (item.source, item.kind) == ("nvram", "missing")


def test_firmware_that_libvirt_has_yet_to_choose() -> None:
    xml = domain().replace(b"<os>", b"<os firmware='efi'>")
    assert [item.kind for item in parse_domain(xml).unguarded] == ["missing"]


QEMU_ARGUMENTS = {
    ("-drive", "file=/srv/x"): 1,
    ("--blockdev", "{}"): 1,
    ("-object", "memory-backend-file,mem-path=/x"): 1,
    ("-readconfig", "/etc/qemu/disks.cfg"): 1,
    ("-mem-path", "/srv/ram"): 1,
    ("-virtfs", "local,path=/srv,mount_tag=s,security_model=none"): 1,
    ("-fsdev", "local,id=f,path=/srv"): 1,
    ("-sdl",): 0,
    ("-device", "virtio-rng"): 0,
}


@pytest.mark.parametrize(("arguments", "told"), QEMU_ARGUMENTS.items())
def test_raw_qemu_arguments_that_add_storage(arguments: tuple[str, ...], told: int) -> None:
    listed = "".join(f"<q:arg value='{word}'/>" for word in arguments)
    extra = f"<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>{listed}</q:commandline>"
    assert len(parse_domain(domain(extra=extra)).unguarded) == told


def test_a_whole_vm_as_the_prepare_hook_sees_it() -> None:
    result = parse_domain(stored("prepare.xml"))
    assert (result.name, result.uuid) == ("web1", UUID)
    assert [brief(source) for source in result.sources] == [
        ("loader", "/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "shared", "loader"),
        ("nvram", "/srv/vm/web1_VARS.fd", "exclusive", "nvram"),
        ("disk vda", "/srv/vm/web1.qcow2", "exclusive", "disk"),
        ("disk vdb", "web1-data.img", "exclusive", "disk"),
        ("cdrom sdb", "/srv/iso/debian.iso", "shared", "disk"),
    ]
    volume, iso = result.sources[3], result.sources[4]
    assert (volume.kind, volume.pool) == ("volume", "images")
    assert iso.is_optional
    assert not volume.is_optional
    assert sorted(item.source for item in result.unguarded) == ["filesystem share", "tpm"]


def test_a_running_vm_with_its_chain_and_a_block_job() -> None:
    top, mirror = parse_domain(stored("status.xml")).sources
    assert brief(top) == ("disk vda", "/srv/vm/web1.snap", "exclusive", "disk")
    assert top.backing is not None
    assert brief(top.backing) == ("backing of /srv/vm/web1.snap", "/srv/vm/web1.qcow2", "shared", "backing")
    assert top.backing.backing is not None
    assert (top.backing.backing.format, top.backing.backing.ends) == ("raw", True)
    assert brief(mirror) == ("mirror of disk vda", "/srv/vm/web1.qcow2", "exclusive", "mirror")


def test_no_driver_type_means_raw_and_no_chain_means_look() -> None:
    (source,) = parse_domain(domain(disk(A))).sources
    assert (source.format, source.backing, source.ends) == ("raw", None, False)


def test_an_empty_backing_store_ends_the_chain() -> None:
    (source,) = parse_domain(domain(disk(QCOW2 + A + "<backingStore/>"))).sources
    assert (source.backing, source.ends) == (None, True)


def test_a_data_file_goes_with_its_image() -> None:
    inside = "<source file='/srv/a'><dataStore type='file'><source file='/srv/d'/></dataStore></source><readonly/>"
    (source,) = parse_domain(domain(disk(inside))).sources
    assert source.data_store is not None
    assert brief(source.data_store) == ("data file of /srv/a", "/srv/d", "shared", "data-file")


def test_the_old_form_of_a_mirror() -> None:
    _, mirror = parse_domain(domain(disk(A + "<mirror file='/srv/m' format='qcow2'/>"))).sources
    assert (brief(mirror), mirror.format) == (("mirror of disk vda", "/srv/m", "exclusive", "mirror"), "qcow2")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "windows-1252"])
def test_the_encodings_that_editors_leave_behind(encoding: str) -> None:
    text = f"<?xml version='1.0' encoding='{encoding}'?>" + domain(disk("<source file='/srv/ü'/>")).decode()
    (source,) = parse_domain(text.encode(encoding)).sources
    assert source.path == "/srv/ü"


@pytest.mark.parametrize("name", ["-rf", "a b", "it's &quot;it&quot;", "new\nline", "$(reboot)", "ünïcode", "a&amp;b"])
def test_a_name_is_taken_as_it_is(name: str) -> None:
    result = parse_domain(domain(name=name))
    assert result.name == name.replace("&quot;", '"').replace("&amp;", "&")


@pytest.mark.parametrize("uuid", [UUID.upper(), UUID.replace("-", ""), f"\n  {UUID}\n"])
def test_a_uuid_has_one_form(uuid: str) -> None:
    assert parse_domain(domain().replace(UUID.encode(), uuid.encode())).uuid == UUID


def test_seven_megabytes_of_uninteresting_xml_are_skipped() -> None:
    filler = "<metadata>" + "<x/>" * ((MAX_BYTES - 10_000) // 4) + "</metadata>"
    (source,) = parse_domain(domain(disk(A), extra=filler)).sources
    assert source.path == "/srv/a"


WORDS = st.sampled_from(
    ["<domain>", "</domain>", "<name>a</name>", f"<uuid>{UUID}</uuid>", "<devices>", "</devices>", "<disk>", "</disk>",
     "<disk type='volume'>", "<source file='/a'/>", "<source>", "</source>", "<backingStore>", "</backingStore>",
     "<backingStore/>", "<!DOCTYPE x>", "<mirror/>", "&lt;", "&x;", "<os>", "</os>", "<nvram>", "</nvram>", "/a",
     "<tpm>", "</tpm>", "<slices><slice offset='-1'/></slices>", "\x00", "\ud800", "<?xml version='1.0' encoding='x'?>"]
)  # fmt: skip


def only_our_errors(xml: bytes) -> Domain | None:
    try:
        return parse_domain(xml)
    except BadInput as problem:
        return None if problem.message else pytest.fail("an error without words")


@given(st.lists(WORDS, max_size=30))
def test_no_document_breaks_the_reader(words: list[str]) -> None:
    only_our_errors("".join(words).encode("utf-8", "surrogatepass"))
    only_our_errors(domain("".join(words[:8]).encode("utf-8", "replace").decode()))


@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_damage_breaks_the_reader(noise: bytes, place: int) -> None:
    xml = domain(disk(QCOW2 + A + "<backingStore/>"))
    only_our_errors(noise)
    only_our_errors(xml[:place] + noise + xml[place:])
