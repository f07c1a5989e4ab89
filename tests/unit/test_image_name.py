"""Names of images in the headers of others: where each leads, as QEMU takes it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmguard.core.sources.image_name import ImageName, parse_name
from vmguard.errors import PlanError

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
    'json:{"driver":"compress","file":{"driver":"qcow2","file":{"filename":"/b"}}}': ("file", "/b", "qcow2"),
    'json:{"driver":"replication","mode":"primary","file.driver":"qcow2","file.file.filename":"/b"}': (
        "file",
        "/b",
        "qcow2",
    ),
    'json:{"driver":"blkreplay","image":{"driver":"qcow2","file":{"filename":"/b"}}}': ("file", "/b", "qcow2"),
    "null-co://": ("other", "zeros", None),
    'json:{"driver":"raw","file":{"driver":"null-co","size":1048576}}': ("other", "zeros", None),
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


@pytest.mark.parametrize("size", ["4096", "4k", "4K", "0x1000", "4096b", "4096B"])
def test_an_offset_may_be_a_size_as_qemu_writes_it(size: str) -> None:
    name = parse_name(f'json:{{"driver":"qcow2","file":{{"driver":"raw","offset":"{size}","file.filename":"/b"}}}}')
    assert name.offset == 4096


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
    *(f'json:{{"driver":"raw","offset":"{bad}","file.filename":"/a"}}' for bad in ("x", "", "k", "-4k", "0xg", "4kk")),
    'json:{"driver":"raw","offset":"9999999999E","file.filename":"/a"}',
    f'json:{{"driver":"raw","offset":"{"9" * 5000}","file.filename":"/a"}}',
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
    name("json:" + json.dumps(options))
    name("json:" + json.dumps(options).replace('"', "'"))


@given(st.text(max_size=40))
def test_no_name_breaks_the_reader(text: str) -> None:
    name(text)
    name("json:" + text)
