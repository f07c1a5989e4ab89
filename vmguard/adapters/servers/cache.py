"""The last answer of each storage server, kept on this host: /run/vmguard/servers/NAME.json.

The daemon has it renewed by a child (vmguard/jobs/ask_server.py). So whoever needs a lease or a grace period reads a
small file, and waits for no server. An answer counts as long as it is fresh; from another boot of this host it is not.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

from vmguard.adapters.linux import clock, host_identity, statefile
from vmguard.core.servers.facts import ServerFacts, Times
from vmguard.core.words import file_name

FOLDER = "servers"


@dataclass(frozen=True)
class Kept:
    """What is kept of a server's answer. ``at``: CLOCK_BOOTTIME; times in seconds."""

    at: float
    times: Times
    #: for how long new locks wait yet, from ``at`` on; 0: they do not; None: not known
    grace_left: float | None
    missing: tuple[str, ...] = ()

    def free_in(self, now: float) -> float | None:
        """Return for how long, from now on, the grace period still holds up new locks."""
        return None if self.grace_left is None else max(0.0, self.grace_left - (now - self.at))


def path_of(run_dir: str, name: str) -> str:
    return os.path.join(run_dir, FOLDER, file_name(name) + ".json")


def keep(run_dir: str, name: str, facts: ServerFacts) -> None:
    """Write an answer down. Raises OSError."""
    os.makedirs(os.path.join(run_dir, FOLDER), mode=0o700, exist_ok=True)
    value = {
        "at": clock.boottime(),
        "boot": host_identity.boot_id(),
        "times": dataclasses.asdict(facts.times),
        "grace_left": facts.grace.left(facts.times),
        "missing": facts.grace.missing[:100],
    }
    statefile.write(path_of(run_dir, name), value, sync=False)


def fresh(run_dir: str, name: str, seconds: float) -> Kept | None:
    """Return the last answer if it is not older than that; None if there is none. It asks nobody."""
    path = path_of(run_dir, name)
    value = statefile.read(path) if os.path.exists(path) else None
    if value is None or value.get("boot") != host_identity.boot_id():
        return None
    times = value.get("times")
    at, left = _number(value.get("at")), _number(value.get("grace_left"))
    if at is None or not isinstance(times, dict) or not 0 <= clock.boottime() - at <= seconds:
        return None
    spans = Times(*(_number(times.get(key)) for key in ("lease", "grace", "lockd_grace")))
    missing = value.get("missing")
    return Kept(at, spans, left, tuple(map(str, missing)) if isinstance(missing, list) else ())


def _number(value: object) -> float | None:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_one and isinstance(value, int | float) else None
