"""Bad input of every kind: each ends in an error of ours that names the thing, and no descriptor stays open.

A case builds its files in a directory and returns the domain XML; the table says which error comes of it and which
words it must hold (``{dir}`` is the directory).
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.disk_images import image
from vmguard.adapters.storage.backing_chain import plan_of, resolve
from vmguard.adapters.storage.files import Opener, ReadOnlyOpener
from vmguard.adapters.storage.libvirt_pools import Pools
from vmguard.core.sources.domain_xml import parse_domain
from vmguard.errors import BadInput, PlanError, VmguardError

UUID = "6f8b1c9e-0b1d-4b0a-9f0e-2a6f0d1c2b3a"

Build = Callable[[Path], bytes]
Case = tuple[Build, type[VmguardError], str]


def domain(devices: str = "", name: str = "<name>web1</name>", uuid: str = f"<uuid>{UUID}</uuid>") -> bytes:
    return f"<domain>{name}{uuid}<devices>{devices}</devices></domain>".encode()


def disk(path: object, format: str = "qcow2", inside: str = "") -> bytes:
    shown = str(path).replace("&", "&amp;").replace("'", "&apos;").replace("\n", "&#10;")
    return domain(
        f"<disk type='file'><driver type='{format}'/><source file='{shown}'/>{inside}<target dev='vda'/></disk>"
    )


# --- documents ------------------------------------------------------------------------------------------------------

BOMB = b"""<?xml version='1.0'?><!DOCTYPE domain [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;'>
<!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;'>]><domain><name>&c;</name></domain>"""

DOCUMENTS: dict[str, tuple[bytes, str]] = {
    "nothing at all": (b"", "is empty"),
    "only spaces": (b" \n\t ", "is empty"),
    "not XML": (b"hello", "not well formed: syntax error: line 1, column 0"),
    "cut off": (domain()[:-10], "line 1, column"),
    "tags that do not match": (b"<domain>\n<name>a</nam></domain>", "mismatched tag: line 2, column 9"),
    "an unknown entity": (domain(name="<name>&x;</name>"), "undefined entity"),
    "an entity bomb": (BOMB, "document type"),
    "an outside entity": (b"<!DOCTYPE d SYSTEM 'file:///etc/passwd'><domain/>", "document type"),
    "a NUL": (domain(name="<name>a\0b</name>"), "not well formed"),
    "broken UTF-8": (domain(name="<name>").replace(b"<name>", b"<name>\xff</name>"), "not well formed"),
    "an encoding that nobody knows": (b"<?xml version='1.0' encoding='klingon'?><domain/>", "encoding"),
    "an encoding of several bytes": (b"<?xml version='1.0' encoding='shift_jis'?><domain/>", "encoding"),
    "10 MB of XML": (b"<domain>" + b"<x/>" * 2_600_000 + b"</domain>", "too large"),
    "a million elements": (domain("<disk><a/>" + "<a/>" * 1_000_000 + "</disk>"), "more than 100000 elements"),
    "a name of 1 MB": (domain(name=f"<name>{'n' * (1 << 20)}</name>"), "longer than"),
    "nested without end": (domain("<disk>" + "<backingStore>" * 3000), "deeper than 512"),
    "a network": (b"<network><name>a</name></network>", "root element is <network>"),
    "a snapshot": (b"<domainsnapshot>" + domain() + b"</domainsnapshot>", "root element is <domainsnapshot>"),
    "a status without a domain": (b"<domstatus><other/></domstatus>", "holds no <domain>"),
    "a domain of another namespace": (b"<domain xmlns='http://x'/>", "root element is <http://x domain>"),
    "no name": (domain(name=""), "<name> is missing"),
    "an empty name": (domain(name="<name> </name>"), "<name> is missing or empty"),
    "no UUID": (domain(uuid=""), "no <uuid>"),
    "a UUID that is none": (domain(uuid="<uuid>1234\n; rm -rf /</uuid>"), r"'1234\n; rm -rf /' is not a UUID"),
    "a relative path": (disk("a.qcow2"), "disk vda: the path 'a.qcow2' is not absolute"),
    "a path that looks like an option": (disk("-rf"), "disk vda: the path '-rf' is not absolute"),
    "a URL as a path": (disk("https://host/x"), "not absolute"),
    "a slice at minus one": (
        disk("/a").replace(b"'/a'/>", b"'/a'><slices><slice offset='-1'/></slices></source>"),
        "slice offset '-1'",
    ),
}

# --- files ----------------------------------------------------------------------------------------------------------


def missing(t: Path) -> bytes:
    return disk(t / "gone")


def missing_with_a_hard_name(t: Path) -> bytes:
    return disk(t / 'it\'s\n"gone" -rf')


def missing_directory(t: Path) -> bytes:
    return disk(t / "no" / "such" / "a")


def below_a_file(t: Path) -> bytes:
    image(t / "a")
    return disk(t / "a" / "b")


def dangling(t: Path) -> bytes:
    (t / "a").symlink_to("nowhere")
    return disk(t / "a")


def symlink_to_itself(t: Path) -> bytes:
    (t / "a").symlink_to("a")
    return disk(t / "a")


def symlink_ring(t: Path) -> bytes:
    (t / "a").symlink_to("b")
    (t / "b").symlink_to("a")
    return disk(t / "a")


def directory(t: Path) -> bytes:
    (t / "a").mkdir()
    return disk(t / "a")


def fifo(t: Path) -> bytes:
    os.mkfifo(t / "a")
    return disk(t / "a", "raw")


def unix_socket(t: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(t / "a"))
    return disk(t / "a", "raw")


def character_device(t: Path) -> bytes:
    return disk("/dev/null", "raw")


def hidden_character_device(t: Path) -> bytes:
    (t / "a").symlink_to("/dev/zero")
    return disk(t / "a", "raw")


def name_too_long(t: Path) -> bytes:
    return disk(t / ("a" * 300))


def path_too_long(t: Path) -> bytes:
    return disk(str(t) + "/a" * 3000)


def empty_file(t: Path) -> bytes:
    (t / "a").touch()
    return disk(t / "a")


def truncated(t: Path) -> bytes:
    image(t / "a")
    os.truncate(t / "a", 80)
    return disk(t / "a")


def not_qcow2(t: Path) -> bytes:
    (t / "a").write_bytes(bytes(8192))
    return disk(t / "a")


def text_file(t: Path) -> bytes:
    (t / "a").write_text("root:x:0:0::/root:/bin/sh\n" * 50)
    return disk(t / "a", "qed")


def damaged(t: Path, offset: int, content: bytes) -> bytes:
    image(t / "a", "base")
    with open(t / "a", "r+b") as file:
        file.seek(offset)
        file.write(content)
    return disk(t / "a")


# --- chains ---------------------------------------------------------------------------------------------------------


def missing_link(t: Path) -> bytes:
    image(t / "a", "gone")
    return disk(t / "a")


def missing_link_of_a_hard_name(t: Path) -> bytes:
    image(t / "a\nb", "gone")
    return disk(t / "a\nb")


def missing_link_in_xml(t: Path) -> bytes:
    image(t / "a")
    return disk(
        t / "a",
        inside=f"<backingStore type='file'><format type='raw'/><source file='{t}/gone'/></backingStore>",
    )


def link_is_a_directory(t: Path) -> bytes:
    image(t / "a", ".")
    return disk(t / "a")


def link_is_a_fifo(t: Path) -> bytes:
    os.mkfifo(t / "pipe")
    image(t / "a", "pipe", "raw")
    return disk(t / "a")


def link_is_a_watchdog(t: Path) -> bytes:
    image(t / "a", "/dev/full", "raw")
    return disk(t / "a")


def damaged_link(t: Path) -> bytes:
    image(t / "base").write_bytes(b"QFI\xfb\0\0\0\7" + bytes(200))
    image(t / "a", "base")
    return disk(t / "a")


def loop_of_one(t: Path) -> bytes:
    image(t / "a", "a")
    return disk(t / "a")


def loop_of_two(t: Path) -> bytes:
    image(t / "a", "b")
    image(t / "b", "a")
    return disk(t / "a")


def loop_below_the_top(t: Path) -> bytes:
    image(t / "a", "b")
    image(t / "b", "c")
    image(t / "c", "b")
    return disk(t / "a")


def loop_by_symlink(t: Path) -> bytes:
    (t / "other").symlink_to("a")
    image(t / "a", "other")
    return disk(t / "a")


def loop_by_hard_link(t: Path) -> bytes:
    image(t / "a", "other")
    os.link(t / "a", t / "other")
    return disk(t / "a")


def loop_in_xml(t: Path) -> bytes:
    image(t / "a")
    given = f"<backingStore type='file'><format type='qcow2'/><source file='{t}/a'/><backingStore/></backingStore>"
    return disk(t / "a", inside=given)


def chain_of_300(t: Path) -> bytes:
    for number in range(300):
        image(t / str(number), str(number + 1))
    return disk(t / "0")


def own_data_file(t: Path) -> bytes:
    head = image(t / "a").read_bytes()
    data = struct.pack(">II", 0x44415441, 1) + b"a".ljust(8, b"\0")
    (t / "a").write_bytes(head[:72] + struct.pack(">Q", 4) + head[80:104] + data + bytes(4000))
    return disk(t / "a")


def names(text: str) -> Build:
    """An image that names this as the image below it."""

    def build(t: Path) -> bytes:
        image(t / "a", text)
        return disk(t / "a")

    return build


def volume(pool: str, name: str) -> Build:
    def build(t: Path) -> bytes:
        (t / "good.xml").write_text(f"<pool type='dir'><name>good</name><target><path>{t}</path></target></pool>")
        (t / "bad.xml").write_text("<pool type='dir'><name>bad</name>")
        xml = f"<disk type='volume'><source pool='{pool}' volume='{name}'/><target dev='vda'/></disk>"
        return domain(xml)

    return build


STORAGE: dict[str, Case] = {
    "a missing disk": (missing, PlanError, "disk vda: '{dir}/gone' does not exist"),
    "a missing disk with a hard name": (missing_with_a_hard_name, PlanError, '\\n"gone" -rf\' does not exist'),
    "a missing link of a hard name": (
        missing_link_of_a_hard_name,
        PlanError,
        "backing of {dir}/a\\nb: '{dir}/gone' do",
    ),
    "a missing directory": (missing_directory, PlanError, "'{dir}/no/such/a' does not exist"),
    "a path through a file": (below_a_file, PlanError, "'{dir}/a/b' does not exist: a part of its path"),
    "a dangling symlink": (dangling, PlanError, "'{dir}/a' does not exist"),
    "a symlink to itself": (symlink_to_itself, PlanError, "'{dir}/a': too many symbolic links"),
    "a ring of symlinks": (symlink_ring, PlanError, "'{dir}/a': too many symbolic links"),
    "a directory": (directory, PlanError, "'{dir}/a' is a directory, not a file"),
    "a FIFO": (fifo, PlanError, "'{dir}/a' is a FIFO"),
    "a socket": (unix_socket, PlanError, "'{dir}/a' is a socket"),
    "a character device": (character_device, PlanError, "'/dev/null' is a character device"),
    "a character device behind a symlink": (hidden_character_device, PlanError, "'{dir}/a' is a character device"),
    "a name too long": (name_too_long, PlanError, "too long (ENAMETOOLONG)"),
    "a path too long": (path_too_long, PlanError, "too long (ENAMETOOLONG)"),
    "an empty image": (empty_file, PlanError, "'{dir}/a': its qcow2 header is truncated"),
    "a truncated header": (truncated, PlanError, "'{dir}/a': its qcow2 header is truncated"),
    "an image of another format": (not_qcow2, PlanError, "'{dir}/a': it is declared as qcow2 but holds no qcow2"),
    "a text file as an image": (text_file, PlanError, "'{dir}/a': it is declared as qed but holds no qed"),
    "version 7": (lambda t: damaged(t, 4, b"\0\0\0\7"), PlanError, "'{dir}/a': its qcow2 header is of version 7"),
    "a name at minus one": (lambda t: damaged(t, 8, b"\xff" * 8), PlanError, "byte 18446744073709551615"),
    "a name of 4 GB": (lambda t: damaged(t, 16, b"\xff" * 4), PlanError, "name of 4294967295 bytes"),
    "clusters of 2^255": (lambda t: damaged(t, 20, b"\0\0\0\xff"), PlanError, "clusters of 2^255"),
    "an extension of 4 GB": (lambda t: damaged(t, 108, b"\xff" * 4), PlanError, "extension of 4294967295 bytes"),
    "a missing link": (missing_link, PlanError, "disk vda: backing of {dir}/a: '{dir}/gone' does not exist"),
    "a missing link in XML": (missing_link_in_xml, PlanError, "backing of {dir}/a: '{dir}/gone' does not exist"),
    "a link to a directory": (link_is_a_directory, PlanError, "backing of {dir}/a: '{dir}/.' is a directory"),
    "a link to a FIFO": (link_is_a_fifo, PlanError, "'{dir}/pipe' is a FIFO"),
    "a link to a device that opening would arm": (link_is_a_watchdog, PlanError, "'/dev/full' is a character device"),
    "a damaged link": (damaged_link, PlanError, "'{dir}/base': its qcow2 header is of version 7"),
    "a loop of one": (loop_of_one, PlanError, "loop: '{dir}/a' -> '{dir}/a'"),
    "a loop of two": (loop_of_two, PlanError, "loop: '{dir}/a' -> '{dir}/b' -> '{dir}/a'"),
    "a loop below the top": (loop_below_the_top, PlanError, "loop: '{dir}/a' -> '{dir}/b' -> '{dir}/c' -> '{dir}/b'"),
    "a loop by a symlink": (loop_by_symlink, PlanError, "loop: '{dir}/a' -> '{dir}/other'"),
    "a loop by a hard link": (loop_by_hard_link, PlanError, "loop: '{dir}/a' -> '{dir}/other'"),
    "a loop in XML": (loop_in_xml, PlanError, "loop: '{dir}/a' -> '{dir}/a'"),
    "a chain of 300": (chain_of_300, PlanError, "longer than 256 images"),
    "an image that is its own data file": (own_data_file, PlanError, "'{dir}/a' names itself as its data file"),
    "a protocol that nobody knows": (names("a:b"), PlanError, "'{dir}/a': it names 'a:b'"),
    "JSON cut off": (names('json:{"driver":'), PlanError, "'{dir}/a': it names 'json:{\"driver\":', which is not JSON"),
    "JSON that is too deep": (names("json:" + "[" * 900), PlanError, "which is not JSON"),
    "JSON without a file": (names('json:{"driver":"qcow2"}'), PlanError, "no file can be found"),
    "JSON with a NUL": (names('json:{"filename":"/a\\u0000"}'), PlanError, "NUL"),
    "JSON with a missing file": (names('json:{"filename":"/no/such"}'), PlanError, "'/no/such' does not exist"),
    "a volume of an unknown pool": (volume("none", "a"), PlanError, "disk vda: storage pool 'none' is not known"),
    "a volume of a broken pool": (volume("bad", "a"), PlanError, "'{dir}/bad.xml': pool XML is not well formed"),
    "a pool that climbs": (volume("../good", "a"), PlanError, "'../good' is not the name of a storage pool"),
    "a volume that climbs": (volume("good", "../../etc/passwd"), PlanError, "is not the name of a storage volume"),
    "a missing volume": (volume("good", "gone"), PlanError, "disk vda: '{dir}/gone' does not exist"),
}


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("case", DOCUMENTS)
def test_a_bad_document(case: str) -> None:
    xml, words = DOCUMENTS[case]
    started = time.thread_time()
    with pytest.raises(BadInput) as caught:
        plan_of(xml)
    assert words in caught.value.message
    assert len(caught.value.message) < 400
    assert time.thread_time() - started < 2


@pytest.mark.parametrize("opener", [ReadOnlyOpener, Opener], ids=["plan", "claim"])
@pytest.mark.parametrize("case", STORAGE)
def test_bad_storage(case: str, opener: type[ReadOnlyOpener], tmp_path: Path) -> None:
    build, error, words = STORAGE[case]
    good = image(tmp_path / "good-disk")
    bad = build(tmp_path)
    first = disk(good).partition(b"<devices>")[2].partition(b"</devices>")[0].replace(b"vda", b"vdz")
    xml = bad.replace(b"<devices>", b"<devices>" + first)  # a good disk before it: that one must be closed again
    with pytest.raises(error) as caught:
        resolve(parse_domain(xml), opener(), Pools((str(tmp_path),)))
    assert words.replace("{dir}", str(tmp_path)) in caught.value.message
    assert "\n" not in caught.value.message


def test_there_are_enough_of_them() -> None:
    assert len(DOCUMENTS) + len(STORAGE) >= 70
