"""Image headers: what they name, what is damage, and that a raw disk's content is never believed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmguard.core.sources.image_header import MAX_BYTES, ImageHeader, parse_header, probe
from vmguard.core.sources.image_name import ImageName, parse_name
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


# --- names ----------------------------------------------------------------------------------------------------------

NAMES = {
    "base.qcow2": ("file", "base.qcow2", None),
    "../base.qcow2": ("file", "../base.qcow2", None),
    "/srv/base": ("file", "/srv/base", None),
    "./a:b": ("file", "./a:b", None),
    "dir/a:b": ("file", "dir/a:b", None),
    "-rf": ("file", "-rf", None),
    "a b'\"\n": ("file", "a b'\"\n", None),
    "file:/srv/base": ("file", "/srv/base", None),
    "file:///srv/base": ("file", "///srv/base", None),
    'json:{"driver":"qcow2","file":{"driver":"file","filename":"/srv/b"}}': ("file", "/srv/b", "qcow2"),
    'json:{"driver":"qcow2","file.driver":"file","file.filename":"/srv/b"}': ("file", "/srv/b", "qcow2"),
    'json:{"file.filename":"/srv/b","driver":"raw"}': ("file", "/srv/b", "raw"),
    'json:{"driver":"file","filename":"/srv/b"}': ("file", "/srv/b", None),
    'json:{"filename":"/srv/b"}': ("file", "/srv/b", None),
    'json:{"file.filename":"/srv/b"}': ("file", "/srv/b", None),
    'json:{"driver":"qcow2","file":{"driver":"file"},"file.filename":"/srv/b"}': ("file", "/srv/b", "qcow2"),
    'json:{"driver":"raw","file.driver":"qcow2","file.file.filename":"/srv/b"}': ("file", "/srv/b", "qcow2"),
    "json:{'driver':'qcow2','file':{'driver':'file','filename':'/srv/b'}}": ("file", "/srv/b", "qcow2"),
    "json:{'driver': \"qcow2\", 'file.filename': '/srv/it\\'s \"it\"'}": ("file", '/srv/it\'s "it"', "qcow2"),
    'json:{"driver":"qcow2","file.filename":"/srv/it\\\'s"}': ("file", "/srv/it's", "qcow2"),
    'json:{"driver":"qcow2","file":{"driver":"luks","file":{"filename":"/srv/b"}}}': (
        "file",
        "/srv/b",
        "qcow2 in luks",
    ),
    'json:{"driver":"throttle","throttle-group":"g","file":{"driver":"qcow2","file":{"filename":"/b"}}}': (
        "file",
        "/b",
        "qcow2",
    ),
    'json:{"driver":"raw","file":{"driver":"host_device","filename":"/dev/sda"}}': ("block", "host_device", None),
    'json:{"driver":"qcow2","file":{"driver":"nbd","host":"h"}}': ("network", "nbd", None),
    'json:{"driver":"nvme","device":"0000:01:00.0","namespace":1}': ("other", "nvme", None),
    "nbd://host:10809/x": ("network", "nbd://host:10809/x", None),
    "nbd:unix:/run/s": ("network", "nbd:unix:/run/s", None),
    "rbd:pool/image": ("network", "rbd:pool/image", None),
    "host_device:/dev/sdb": ("block", "/dev/sdb", None),
    "fat:rw:/srv": ("directory", "/srv", None),
}


@pytest.mark.parametrize("text", NAMES)
def test_where_a_name_leads(text: str) -> None:
    kind, words, format = NAMES[text]
    name = parse_name(text)
    assert (name.kind, name.format) == (kind, format)
    assert name.path == words if kind == "file" else words in name.path


def test_a_slice_of_a_file() -> None:
    name = parse_name('json:{"driver":"qcow2","file":{"driver":"raw","offset":4096,"file":{"filename":"/b"}}}')
    assert (name.path, name.format, name.offset) == ("/b", "qcow2", 4096)


def test_a_slice_above_a_format_is_no_place_in_the_file() -> None:
    name = parse_name('json:{"driver":"raw","offset":4096,"file":{"driver":"qcow2","file":{"filename":"/b"}}}')
    assert (name.path, name.format, name.offset) == ("/b", "qcow2", 0)


IN_JSON = '"driver":"qcow2","file":{"filename":"/b"}'
#: options besides -> what is below, whether the chain ends, the data file
CHAINS = {
    "": (None, False, None),
    '"backing.file.filename":"/c"': ("/c", False, None),
    '"backing":{"driver":"raw","file":{"driver":"file","filename":"/c"}}': ("/c", False, None),
    '"backing":{"driver":"raw"},"backing.file.filename":"/c"': ("/c", False, None),
    '"data-file.filename":"/d"': (None, False, "/d"),
    '"data-file":{"driver":"file","filename":"/d"},"backing":null': (None, True, "/d"),
    '"backing":""': (None, True, None),
}


@pytest.mark.parametrize("more", CHAINS)
def test_the_chain_that_a_name_holds(more: str) -> None:
    name = parse_name("json:{" + ",".join(filter(None, (IN_JSON, more))) + "}")
    below, data = (None if found is None else found.path for found in (name.backing, name.data_file))
    assert (name.path, below, name.ends, data) == ("/b", *CHAINS[more])


def test_a_chain_in_a_name_has_its_formats_and_goes_on() -> None:
    name = parse_name(
        'json:{"driver":"raw","file":{"driver":"qcow2","file.filename":"/a","backing.driver":"qcow2",'
        '"backing.file.filename":"/b","backing.backing.file.filename":"/c","backing.data-file.filename":"/d"}}'
    )
    assert name.backing is not None
    assert name.backing.backing is not None
    assert name.backing.data_file is not None
    assert (name.backing.format, name.backing.backing.path, name.backing.data_file.path) == ("qcow2", "/c", "/d")


#: name, format that the header declares -> format that counts
DECLARED = {
    ("json:{" + IN_JSON + "}", "raw"): "raw",
    ("json:{" + IN_JSON + "}", None): "qcow2",
    ('json:{"file.filename":"/b"}', "qcow2"): "qcow2",
    ('json:{"driver":"raw","file":{"driver":"qcow2","file":{"filename":"/b"}}}', "raw"): "qcow2",
    ('json:{"driver":"file","filename":"/b"}', "qcow2"): "qcow2",
    ("/b", "vdi"): "vdi",
    ("file:/b", "raw"): "raw",
}


@pytest.mark.parametrize(("name", "declared"), DECLARED)
def test_the_headers_format_wins_over_the_names_driver(name: str, declared: str | None) -> None:
    assert parse_name(name, declared).format == DECLARED[name, declared]


def test_secrets_in_a_url_are_not_shown() -> None:
    shown = parse_name("https://me:secret@host/disk?token=secret").path
    assert "host/disk" in shown
    assert "secret" not in shown


NO_NAMES = [
    "file:relative",
    "foo:bar.qcow2",
    "json:",
    "json:{",
    "json:[]",
    "json:1",
    "json:{}",
    "json:" + "[" * 900,
    'json:{"driver":"file"}',
    'json:{"driver":"file","filename":"relative"}',
    'json:{"driver":"file","filename":"/a\\u0000b"}',
    'json:{"driver":"file","filename":"/\\ud800"}',
    'json:{"driver":7,"file":{"filename":"/a"}}',
    'json:{"driver":"qcow2","file":"a-node-name"}',
    'json:{"driver":"raw","offset":-1,"file":{"filename":"/a"}}',
    'json:{"driver":"raw","offset":"x","file":{"filename":"/a"}}',
    'json:{"driver":"qcow2","backing":{"filename":"/x"},"file":{"filename":"/a"}}',
    'json:{"driver":"quorum","children":[]}',
    'json:{"driver":"quorum","children":[{"file":{"filename":"/a"}}]}',
    'json:{"driver":"qcow2","backing.driver":"raw","file":{"filename":"/a"}}',
    'json:{"driver":"qcow2","backing":"a-node-name","file":{"filename":"/a"}}',
    'json:{"driver":"qcow2","data-file":"a-node-name","file":{"filename":"/a"}}',
    'json:{"driver":"blkverify","raw.filename":"/b","file":{"filename":"/a"}}',
    'json:{"driver":"raw","driver":"qcow2","file":{"filename":"/a"}}',
    'json:{"driver":"raw","file.filename":"/b","file":{"filename":"/a"}}',
    "json:{'driver':'raw','file':{'filename':'/a'}",
    "json:{'driver':'raw','file':{'filename':'/a\\",
    'json:{"driver":"raw","file.filename":"/a\udcff"}',
    "json:" + '{"backing":' * 40 + '{"file.filename":"/a"}' + "}" * 40,
    'json:{"driver":"raw","file":' * 40 + "{}" + "}" * 40,
]


@pytest.mark.parametrize("text", NO_NAMES)
def test_a_name_that_leads_nowhere(text: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_name(text)
    assert "it names" in caught.value.message


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
        name(header.backing)
    partly = parse_header(seed[:100], "raw", MAX_BYTES)
    assert not partly.leans_on_others


def name(text: str) -> ImageName | None:
    try:
        return parse_name(text)
    except PlanError:
        return None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["file", "raw", "qcow2", "nbd", "/a", "a", "", "\0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("driver", "file", "filename", "offset", "image", "file.filename", "backing", "children.0.file"),
                    *("backing.file.filename", "data-file", "data-file.filename"),
                ]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_no_tree_of_options_breaks_the_reader(options: object) -> None:
    import json

    name("json:" + json.dumps(options))
    name("json:" + json.dumps(options).replace('"', "'"))


@given(st.text(max_size=40))
def test_no_name_breaks_the_reader(text: str) -> None:
    name(text)
    name("json:" + text)
