"""Run something as another user, or as a root whom an NFS server squashes: in a child, for rights do not come back."""

from __future__ import annotations

import ctypes
import os
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from vmguard.adapters.linux.libc import check, libc
from vmguard.errors import VmguardError

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")

#: include/uapi/linux/capability.h
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2
_VERSION_3 = 0x20080522


def _drop_capabilities(*numbers: int) -> None:
    """Drop capabilities from the permitted and the effective set."""
    header = struct.pack("Ii", _VERSION_3, 0)
    sets = ctypes.create_string_buffer(24)
    check(libc.capget(header, sets), "capget")
    mask = ~sum(1 << number for number in numbers) & 0xFFFFFFFF
    effective, permitted, *rest = struct.unpack("6I", sets.raw[:24])
    kept = struct.pack("6I", effective & mask, permitted & mask, *rest)
    check(libc.capset(header, kept), "capset")


def in_a_child(work: Callable[[], object], uid: int = -1, squashed: bool = False, groups: Sequence[int] = ()) -> str:
    """Run something in a child, as another user if wanted; what it raised, or what it returned, in words.

    ``squashed``: as a root that the modes of files bind, like one whom an NFS server squashes. ``groups``: the
    user's.
    """
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if uid >= 0:
                os.setgroups(list(groups))
                os.setegid(uid)
                os.seteuid(uid)
            if squashed:
                _drop_capabilities(_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH)
            said = str(work())
        except VmguardError as problem:
            said = f"{type(problem).__name__}: {problem.message}"
        except BaseException as problem:
            said = repr(problem)
        with os.fdopen(sending, "wb") as pipe:
            pipe.write(said.encode())
        os._exit(0)
    os.close(sending)
    with open(receiving, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder whose path all users may walk, unlike pytest's own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as top:
        os.chmod(top, 0o755)
        yield Path(top)
