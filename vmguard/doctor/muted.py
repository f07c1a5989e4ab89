"""The checks whose findings an admin knows, and does not want to be warned of for a while.

A file that survives reboots, so its times are those of the calendar. A finding that is muted is still shown, in one
line; it does not count in the exit status.
"""

from __future__ import annotations

import os
import time

from vmguard.adapters.linux import statefile
from vmguard.config import last_good
from vmguard.doctor.catalogue import CHECKS

PATH = os.path.join(last_good.DIRECTORY, "doctor-muted.json")
_DAY = "%Y-%m-%d %H:%M"


def read(path: str = "") -> dict[str, str]:
    """Return the muted checks, and until when, for people. What is over, or not understood, mutes nothing."""
    found = statefile.read(path or PATH) or {}
    until = {check: end for check, end in found.items() if check in CHECKS and isinstance(end, int | float)}
    now = time.time()
    return {check: time.strftime(_DAY, time.localtime(end)) for check, end in until.items() if now < end < 2**32}


def mute(check: str, seconds: float, path: str = "") -> None:
    """Mute a check for so long; with 0 seconds it is loud again. Raises OSError."""
    place = path or PATH
    os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
    kept = {name: end for name, end in (statefile.read(place) or {}).items() if name in CHECKS and name != check}
    statefile.write(place, {**kept, **({check: round(time.time() + seconds)} if seconds > 0 else {})})
