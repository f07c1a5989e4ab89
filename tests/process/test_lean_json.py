"""The lean codec on malformed text, in a process that never imported ``json``, as the hook is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
