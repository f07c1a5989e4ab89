"""Image headers: what they name, what is damage, and that a raw disk's content is never believed."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmguard.core.sources.image_header import MAX_BYTES, ImageHeader, parse_header, probe
from vmguard.core.sources.image_name import parse_name
from vmguard.errors import PlanError

DATA_FILE_BIT = 4


def qcow2(
    *,
    version: int = 3,
    backing: bytes = b"",
    offset: int | None = None,
    length: int | None = None,
    extensions: bytes = b"",
    features: int = 0,
    cluster_bits: int = 16,
    header_length: int = 104,
) -> bytes:
    """A header as QEMU lays it out, and as it never would."""
    start = 72 if version == 2 else header_length
    place = (start + len(extensions) + 8 if backing else 0) if offset is None else offset
    head = struct.pack(">4sIQII", b"QFI\xfb", version, place, len(backing) if length is None else length, cluster_bits)
    head = head.ljust(72, b"\0")
    if version != 2:
        head += struct.pack(">QQQII", features, 0, 0, 4, header_length)
    return (head.ljust(start, b"\0") + extensions + bytes(8) + backing).ljust(1024, b"\0")


def extension(kind: int, content: bytes, length: int | None = None) -> bytes:
    padding = -len(content) % 8
    return struct.pack(">II", kind, len(content) if length is None else length) + content + bytes(padding)


def backing_format(name: bytes) -> bytes:
    return extension(0xE2792ACA, name)


def data_file(name: bytes) -> bytes:
    return extension(0x44415441, name)


def qcow1(backing: bytes = b"", version: int = 1, length: int | None = None, offset: int = 48) -> bytes:
    size = len(backing) if length is None else length
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", version, offset if size else 0, size, 0, 1 << 20)
    return (head.ljust(48, b"\0") + backing).ljust(512, b"\0")


def qed(backing: bytes = b"", features: int = 1, length: int | None = None, offset: int = 64) -> bytes:
    size = len(backing) if length is None else length
    head = struct.pack("<4sIIIQQQQQII", b"QED\0", 65536, 4, 1, features, 0, 0, 0, 0, offset, size)
    return (head + backing).ljust(512, b"\0")


READABLE = {
    "no backing": (qcow2(), "qcow2", (None, None, None)),
    "version 2": (qcow2(version=2), "qcow2", (None, None, None)),
    "version 2 with backing": (qcow2(version=2, backing=b"b.img"), "qcow2", ("b.img", None, None)),
    "the name right behind the header": (
        qcow2(version=2, backing=b"b", offset=80, length=1),
        "qcow2",
        ("b", None, None),
    ),
    "backing and its format": (
        qcow2(backing=b"/b", extensions=backing_format(b"raw")),
        "qcow2",
        ("/b", "raw", None),
    ),
    "data file": (qcow2(extensions=data_file(b"d.raw"), features=DATA_FILE_BIT), "qcow2", (None, None, "d.raw")),
    "a data file without its feature bit": (qcow2(extensions=data_file(b"d.raw")), "qcow2", (None, None, None)),
    "unknown extensions are passed over": (
        qcow2(backing=b"b", extensions=extension(0x6803F857, b"x" * 45) + backing_format(b"qcow2")),
        "qcow2",
        ("b", "qcow2", None),
    ),
    "an empty name is none": (qcow2(offset=200, length=0), "qcow2", (None, None, None)),
    "a longer header of the future": (
        qcow2(backing=b"b", header_length=144, extensions=backing_format(b"raw")),
        "qcow2",
        ("b", "raw", None),
    ),
    "a name in UTF-8": (qcow2(backing="ü.img".encode()), "qcow2", ("ü.img", None, None)),
    "a name in Latin 1": (qcow2(backing=b"\xfc.img"), "qcow2", ("\udcfc.img", None, None)),
    "a data file in Latin 1": (
        qcow2(extensions=data_file(b"\xfc.raw"), features=DATA_FILE_BIT),
        "qcow2",
        (None, None, "\udcfc.raw"),
    ),
    "qcow 1": (qcow1(b"b.img"), "qcow", ("b.img", None, None)),
    "qcow 1 without backing": (qcow1(), "qcow", (None, None, None)),
    "qed": (qed(b"b.img"), "qed", ("b.img", None, None)),
    "qed that says raw": (qed(b"b.img", features=5), "qed", ("b.img", "raw", None)),
    "qed without backing": (qed(b"b.img", features=0), "qed", (None, None, None)),
}


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "by magic"])
@pytest.mark.parametrize("what", READABLE)
def test_what_a_header_names(what: str, declared: bool) -> None:
    data, kind, expected = READABLE[what]
    header = parse_header(data, kind if declared else None, len(data))
    assert (header.format, header.needs, header.note) == (kind, 0, "")
    assert (header.backing, header.backing_format, header.data_file) == expected


DAMAGED = {
    "empty": (b"", "qcow2", "truncated"),
    "only the magic": (b"QFI\xfb", "qcow2", "truncated"),
    "half a header": (qcow2()[:90], "qcow2", "truncated"),
    "zeroes": (bytes(4096), "qcow2", "no qcow2 header"),
    "another format": (qed(), "qcow2", "holds qed header"),
    "version 0": (qcow2(version=0), "qcow2", "version 0"),
    "version 1 is qcow": (qcow1(), "qcow2", "version 1"),
    "version 7": (qcow2(version=7), "qcow2", "version 7"),
    "version 2 is not qcow": (qcow2(version=2), "qcow", "version 2"),
    "tiny clusters": (qcow2(cluster_bits=8), "qcow2", "2^8"),
    "huge clusters": (qcow2(cluster_bits=4_000_000_000), "qcow2", "2^4000000000"),
    "a header of 0 bytes": (qcow2()[:100] + bytes(4) + qcow2()[104:], "qcow2", "0 bytes long"),
    "a header longer than its cluster": (
        qcow2(cluster_bits=9)[:100] + b"\xff" * 4 + qcow2()[104:],
        "qcow2",
        "4294967295 bytes long",
    ),
    "a name beyond the cluster": (qcow2(offset=1 << 40, length=5), "qcow2", f"byte {1 << 40}"),
    "a name at minus one": (qcow2(offset=(1 << 64) - 1, length=5), "qcow2", "byte 18446744073709551615"),
    "a name of 1024 bytes": (qcow2(offset=200, length=1024), "qcow2", "1024 bytes"),
    "a name of minus one bytes": (qcow2(offset=200, length=(1 << 32) - 1), "qcow2", "4294967295 bytes"),
    "a name beyond the file": (qcow2(offset=1020, length=10), "qcow2", "truncated"),
    "a name with a NUL": (qcow2(backing=b"a\0b"), "qcow2", "NUL"),
    "an extension without end": (qcow2(extensions=extension(5, b"x", length=1 << 31)), "qcow2", "extension of"),
    "an extension beyond the file": (qcow2(extensions=extension(5, b"x", length=60_000)), "qcow2", "truncated"),
    "extensions without number": (qcow2()[:104] + extension(5, b"") * 2000, "qcow2", "more than 1024"),
    "a format that is no text": (qcow2(backing=b"b", extensions=backing_format(b"\xff\xfe")), "qcow2", "not UTF-8"),
    "a data file without a name": (qcow2(features=DATA_FILE_BIT), "qcow2", "does not name it"),
    "a data file with an empty name": (
        qcow2(features=DATA_FILE_BIT, extensions=data_file(b"")),
        "qcow2",
        "empty",
    ),
    "qcow 1 with a huge name": (qcow1(length=1 << 31), "qcow", "2147483648 bytes"),
    "qcow 1 with a name in the far": (qcow1(b"b", offset=1 << 60), "qcow", f"byte {(1 << 60) + 1}"),
    "qed with a huge name": (qed(length=(1 << 32) - 1), "qed", "4294967295 bytes"),
    "qed with a name in the far": (qed(b"b", offset=(1 << 32) - 1), "qed", "byte 4294967296"),
    "qed cut short": (qed()[:20], "qed", "truncated"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_named(what: str) -> None:
    data, kind, words = DAMAGED[what]
    with pytest.raises(PlanError) as caught:
        parse_header(data, kind, len(data))
    assert words in caught.value.message


def test_a_raw_disk_is_never_believed() -> None:
    """The guest may write any header into its raw disk, naming any file of the host."""
    header = parse_header(qcow2(backing=b"/etc/shadow"), "raw")
    assert (header.format, header.backing, header.leans_on_others) == ("raw", None, False)


def test_a_header_that_does_not_fit_says_how_much_is_needed() -> None:
    big = extension(5, bytes(9000)) + backing_format(b"raw")
    data = qcow2(backing=b"/far", extensions=big).ljust(20_000, b"\0")
    header = parse_header(data[:4096], "qcow2", len(data))
    assert 9000 < header.needs <= len(data)
    while header.needs:
        header = parse_header(data[: header.needs], "qcow2", len(data))
    assert (header.backing, header.backing_format) == ("/far", "raw")


def test_features_of_the_future_are_mentioned_and_the_rest_is_read() -> None:
    header = parse_header(qcow2(backing=b"b", features=1 << 40), "qcow2")
    assert header.backing == "b"
    assert "newer" in header.note


def test_the_magic_of_luks() -> None:
    """Made by hand: qemu-img times its key derivation and gives up on a busy machine."""
    data = b"LUKS\xba\xbe\x00\x01".ljust(4096, b"\0")
    assert probe(data) == "luks"
    assert not parse_header(data, "luks").leans_on_others


def test_a_format_that_nobody_reads_here_is_said() -> None:
    assert "'zfs'" in parse_header(bytes(512), "zfs").note


# --- whatever comes -------------------------------------------------------------------------------------------------

SEEDS = [data for data, *_ in (*READABLE.values(), *DAMAGED.values())]


def read(data: bytes, declared: str | None) -> ImageHeader | None:
    try:
        return parse_header(data, declared, len(data))
    except PlanError as problem:
        return None if problem.message else pytest.fail("an error without words")


@given(st.binary(max_size=300), st.sampled_from(["qcow2", "qcow", "qed", "vmdk", "raw", None]))
@example(b"QFI\xfb", None)
def test_no_bytes_break_the_reader(data: bytes, declared: str | None) -> None:
    header = read(data, declared)
    assert header is None or header.needs == 0


@given(st.sampled_from(SEEDS), st.integers(0, 250), st.binary(min_size=1, max_size=8))
def test_no_damage_breaks_the_reader(seed: bytes, place: int, noise: bytes) -> None:
    data = seed[:place] + noise + seed[place + len(noise) :]
    header = read(data, None)
    if header is not None and header.backing is not None:
        with contextlib.suppress(PlanError):
            parse_name(header.backing)
    partly = parse_header(seed[:100], "raw", MAX_BYTES)
    assert not partly.leans_on_others
