"""Unit tests start no process: an audit hook refuses it while one of them runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

_STARTS = {"os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "os.exec", "subprocess.Popen"}
_state = {"refusing": False}


def _refuse(event: str, _: tuple[object, ...]) -> None:
    if event in _STARTS and _state["refusing"]:
        raise AssertionError(f"a unit test starts a process ({event}): it belongs into tests/process")


sys.addaudithook(_refuse)  # for the life of the interpreter: there is no way to remove one


@pytest.fixture(autouse=True)
def no_process_is_started() -> Iterator[None]:
    _state["refusing"] = True
    yield
    _state["refusing"] = False
