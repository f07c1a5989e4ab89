"""Take rights away from the calling process (capset(2)), for children of tests alone: they do not come back."""

from __future__ import annotations

import ctypes
import struct

from vmguard.adapters.linux.libc import check, libc

#: include/uapi/linux/capability.h
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
_VERSION_3 = 0x20080522


def drop_capabilities(*numbers: int) -> None:
    """Drop capabilities from the permitted and the effective set."""
    header = struct.pack("Ii", _VERSION_3, 0)
    sets = ctypes.create_string_buffer(24)
    check(libc.capget(header, sets), "capget")
    mask = ~sum(1 << number for number in numbers) & 0xFFFFFFFF
    effective, permitted, *rest = struct.unpack("6I", sets.raw[:24])
    kept = struct.pack("6I", effective & mask, permitted & mask, *rest)
    check(libc.capset(header, kept), "capset")
