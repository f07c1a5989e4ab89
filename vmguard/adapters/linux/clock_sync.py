"""What the kernel knows about this host's wall clock: adjtimex(2), read only.

The program that disciplines the clock (chrony, ntpd, systemd-timesyncd) tells the kernel so, and the kernel lets the
error grow from then on (kernel/time/ntp.c, second_overflow: 500 ppm). Where nobody disciplines it, STA_UNSYNC is set.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from vmguard.adapters.linux.libc import check, libc

_STA_UNSYNC = 0x0040
#: struct timex has 208 bytes on 64-bit Linux; the rest is not of interest here
_REST = 256


class _Timex(ctypes.Structure):
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * _REST),
    )


@dataclass(frozen=True)
class ClockSync:
    """Whether somebody disciplines the clock, and by how many seconds it may be wrong at most."""

    disciplined: bool
    max_error_s: float


def read() -> ClockSync | None:
    """Ask the kernel; None where it does not tell (a sandbox)."""
    timex = _Timex(modes=0)
    try:
        check(libc.adjtimex(ctypes.byref(timex)), "adjtimex")
    except OSError:
        return None
    return ClockSync(not timex.status & _STA_UNSYNC, timex.maxerror / 1e6)
