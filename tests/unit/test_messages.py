"""The messages of a claim: unchanged on the wire, in both directions, while daemon and hook are of different versions.

The messages below were recorded from a daemon and a hook of the version before these types.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmguard.core import lean_json
from vmguard.core.locks.plan import BLOCK, OTHER
from vmguard.errors import WireError
from vmguard.protocol.messages import ClaimedFileMessage, ClaimSettings, shown

_IDENTITY = """{"host":"hyp-b","machine":"3d1219c7c4c5","boot":"01d78582-6385","version":"0.1.0"}"""
_POLICY = (
    """{"block":"warn","network":"warn","unsafe_mounts":"refuse","local":"lock","""
    """"missing":"allow","directory":"allow"}"""
)
SETTINGS_LIBVIRT = (
    """{"now":"2026-11-27T20:56:39Z","wait":3.0,"mount_wait":60.0,"timeout":20.0,"windows":[[1,1],[100,200]],"""
    f""""policy":{_POLICY},"record":{{"folder":".vmguard","timeout":5.0}},"identity":{_IDENTITY},"""
    """"as_users":[[64055,108]],"incoming":null}"""
)
SETTINGS_PROXMOX = (
    """{"now":"2026-11-27T20:56:39Z","wait":null,"mount_wait":60.0,"timeout":20.0,"windows":[[299,1]],"""
    f""""policy":{_POLICY},"record":{{"folder":"","timeout":5.0}},"identity":{_IDENTITY},"as_users":[],"incoming":"hyp-a"}}"""
)
FILE = (
    """{"path":"/srv/vm/web.raw","mode":"exclusive","role":"disk","source":"disk vda","real":"/srv/vm/web.raw","""
    """"device":65024,"inode":2237387,"pieces":[[0,1],[2,98],[300,0]],"granted":1592.625724764,"foothold":false}"""
)
RESERVED_FILE = FILE.replace("1592.625724764", "0.0").replace("false", "true")


def settings(text: str = SETTINGS_LIBVIRT) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize("text", [SETTINGS_LIBVIRT, SETTINGS_PROXMOX])
def test_settings_are_the_same_on_the_wire_as_before(text: str) -> None:
    assert ClaimSettings.from_json(json.loads(text)).as_json() == json.loads(text)


@pytest.mark.parametrize("text", [FILE, RESERVED_FILE])
def test_a_file_is_the_same_on_the_wire_as_before_to_the_byte(text: str) -> None:
    assert lean_json.encode(ClaimedFileMessage.from_json(json.loads(text)).as_json()) == text


def test_the_folders_that_a_share_may_lead_to_are_passed_on() -> None:
    said = {**settings(), "trusted_folders": ["/srv/templates"]}
    assert ClaimSettings.from_json(said).as_json() == said
    assert ClaimSettings.from_json(settings()).trusted_folders == [], "an older daemon does not know them"


def test_what_an_older_daemon_says_is_understood() -> None:
    """Before there were migrations, it did not know ``incoming``."""
    read = ClaimSettings.from_json({key: value for key, value in settings().items() if key != "incoming"})
    assert read.incoming is None
    assert read.excluded_ranges == [(1, 1), (100, 200)]
    assert read.as_users == [(64055, 108)]
    assert (read.record.folder, read.identity.host, read.wait) == (".vmguard", "hyp-b", 3.0)
    assert ClaimSettings.from_json(settings(SETTINGS_PROXMOX)).wait is None


def test_what_an_older_hook_says_of_a_file_is_understood() -> None:
    """Its first versions sent neither of these keys."""
    value = {key: value for key, value in json.loads(FILE).items() if key not in ("real", "granted", "foothold")}
    read = ClaimedFileMessage.from_json(value)
    assert (read.real, read.granted, read.reserved) == ("/srv/vm/web.raw", 0.0, False)


def test_what_a_newer_peer_adds_is_ignored() -> None:
    assert ClaimSettings.from_json({**settings(), "new": [1]}).as_json() == settings()
    file = json.loads(FILE)
    assert ClaimedFileMessage.from_json({**file, "owned": True, "guard": "pinned"}).as_json() == file


def test_a_policy_has_an_answer_for_each_kind_of_storage() -> None:
    """A kind that the daemon does not know is warned about; one that this hook does not know does not harm it."""
    policy = settings()["policy"]
    read = ClaimSettings.from_json({**settings(), "policy": {**policy, BLOCK: "refuse", "tape": "refuse"}}).policy
    assert (read.for_kind(BLOCK), read.for_kind("missing"), read.for_kind(OTHER)) == ("refuse", "allow", "warn")
    assert (read.unsafe_mounts, read.local) == ("refuse", "lock")


def test_a_message_cannot_be_changed() -> None:
    read = ClaimSettings.from_json(settings())
    with pytest.raises(AttributeError, match=r"ClaimSettings\.wait cannot be changed"):
        read.wait = 5.0  # type: ignore[misc]
    with pytest.raises(AttributeError):
        read.anything = 1  # type: ignore[attr-defined]


_WRONG: tuple[Any, ...] = (
    None,
    True,
    7,
    1.5,
    "a",
    "",
    [],
    [1],
    [[1]],
    [["a", "b"]],
    [[1, True]],
    {},
    {"a": 1},
    float("nan"),
)


@pytest.mark.parametrize("key", json.loads(FILE))
@pytest.mark.parametrize("wrong", _WRONG, ids=repr)
def test_a_file_with_a_key_of_another_type_is_refused(key: str, wrong: object) -> None:
    right = json.loads(FILE)
    value = {**right, key: wrong}
    fits = isinstance(wrong, type(right[key])) and wrong not in ([1], [[1]], [["a", "b"]], [[1, True]])
    if key == "granted":
        fits = wrong in (7, 1.5) and wrong is not True
    elif key in ("device", "inode"):
        fits = wrong == 7
    if fits:
        assert ClaimedFileMessage.from_json(value).as_json() == value
    else:
        with pytest.raises(WireError, match=key):
            ClaimedFileMessage.from_json(value)


@pytest.mark.parametrize("key", json.loads(SETTINGS_LIBVIRT))
def test_settings_with_a_key_of_another_type_are_refused(key: str) -> None:
    for wrong in (True, 7j, [1], [[1]], {"a": 1}, {"folder": 1}, {"host": None}):
        with pytest.raises(WireError):
            ClaimSettings.from_json({**settings(), key: wrong})
    if key not in ("incoming", "wait"):
        with pytest.raises(WireError, match=f"'{key}' is missing"):
            ClaimSettings.from_json({name: value for name, value in settings().items() if name != key})


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x, max_size=3)))
def test_a_file_of_anything_is_a_message_or_an_error_of_ours(anything: object) -> None:
    for key in json.loads(FILE):
        with contextlib.suppress(WireError):
            ClaimedFileMessage.from_json({**json.loads(FILE), key: anything}).as_json()


def test_a_value_in_an_error_is_short_and_escaped() -> None:
    assert shown("a\nb") == r"'a\nb'"
    assert len(shown("x" * 100_000)) < 210
