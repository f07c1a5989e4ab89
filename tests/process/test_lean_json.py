"""The lean codec on malformed text, in a process that never imported ``json``, as the hook is one."""

from __future__ import annotations

import binascii
import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.guard import make_disk
from vmguard.core import lean_json

ROOT = Path(__file__).resolve().parents[2]
MALFORMED = [
    *("", " ", "{", "[", "]", '{"a"', '{"a":', '{"a":1', '{"a":1,', '{"a" 1}', '{"a":1,}', "{1:2}", "{,}"),
    *("[1,", "[1 2]", "[1,]", "[,]", '"abc', '"\\x"', '"\\u12"', '"\n"', "nul", "-", "1 2", " 1", "1 ", "\ufeff1"),
    *("[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000, "9" * 5000),
]
#: prints what each text does, one word a line
_FRESH = """
import sys
sys.path.insert(0, sys.argv[1])
from vmguard.core import lean_json
assert "json" not in sys.modules
for text in eval(sys.stdin.read()):
    try:
        lean_json.decode(text)
    except BaseException as problem:
        print(type(problem).__name__)
    else:
        print("accepted")
assert "json" not in sys.modules or sys.version_info > (3, 12), "decode imported it: 7 ms"
assert lean_json.decode('{"a":[1,null]}') == {"a": [1, None]}
"""


@pytest.mark.process
def test_malformed_text_is_the_codecs_own_error_where_json_was_never_imported() -> None:
    """Python 3.11 raised SystemError there, which no caller catches."""
    fresh = subprocess.run(
        [sys.executable, "-IS", "-c", _FRESH, str(ROOT)],
        input=ascii([*MALFORMED, "[]"]),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert fresh.returncode == 0, fresh.stderr
    assert fresh.stdout.split() == ["JsonError"] * len(MALFORMED) + ["accepted"]


#: reads a record with the interpreter's stack nearly full, and prints what it found
_RECORD = """
import sys
sys.path.insert(0, sys.argv[1])
from vmguard.adapters.storage.owner_record import last_claim
from vmguard.core.locks.owner_record import Owner, parse_slot
data = sys.stdin.buffer.read()
def climb(left):
    return climb(left - 1) if left else parse_slot(data)
for left in range(0, 900, 50):
    owner = climb(left)
    assert owner is None or owner.host == "", owner
print(last_claim(sys.argv[2]))
assert "json" not in sys.modules or sys.version_info > (3, 12)
"""


@pytest.mark.process
@pytest.mark.parametrize("body", ['{"epoch":3,"host":' + "[" * 980, '{"epoch":3,"host":' + "[" * 470 + "]" * 470])
def test_a_record_with_deep_nesting_is_none_where_json_was_never_imported(tmp_path: Path, body: str) -> None:
    (tmp_path / "record").write_bytes(sealed(body))
    fresh = subprocess.run(
        [sys.executable, "-IS", "-c", _RECORD, str(ROOT), str(tmp_path / "record")],
        input=sealed(body),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (fresh.returncode, fresh.stderr) == (0, b"")


@pytest.mark.process
@pytest.mark.parametrize("body", ['{"epoch":3,"host":' + "[" * 980, '{"epoch":3,"host":' + "[" * 470 + "]" * 470])
def test_who_answers_beside_a_record_with_deep_nesting(tmp_path: Path, body: str) -> None:
    disk = make_disk(tmp_path / "disk.raw")
    (tmp_path / ".vmguard").mkdir()
    record = tmp_path / ".vmguard" / f"{disk.stat().st_ino}.owner"
    record.write_bytes(
        sealed('{"epoch":2,"host":"elsewhere","vm":"web","claimed":"2026-11-20T13:01:22Z"') + sealed(body)
    )
    with open(disk, "rb+") as stream:
        fcntl.lockf(stream, fcntl.LOCK_EX)
        answer = subprocess.run(
            [sys.executable, "-m", "vmguard", "who", str(disk), "--json"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert answer.stderr == ""
    json.loads(answer.stdout)


def sealed(body: str) -> bytes:
    """A slot of an owner record with the right checksum around whatever somebody wrote."""
    closing = f',"check":"{binascii.crc32(body.encode()):08x}"}}\n'
    return (body + " " * (1024 - len(body) - len(closing)) + closing).encode()


@pytest.mark.parametrize("pair", [lean_json._accelerated, lean_json._ordinary])
def test_both_codecs_raise_nothing_but_their_own_error(pair: object) -> None:
    assert callable(pair)
    encode, decode = pair()
    for text in MALFORMED:
        if pair is lean_json._ordinary and text in (" 1", "1 "):
            continue  # the ordinary module allows blanks
        with pytest.raises(lean_json.JsonError):
            decode(text)
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(lean_json.JsonError):
        encode(deep)
    with pytest.raises(ValueError):
        encode(float("nan"))
    with pytest.raises(TypeError):
        encode(object())
    assert json.loads(encode({"a": [1]})) == {"a": [1]}
