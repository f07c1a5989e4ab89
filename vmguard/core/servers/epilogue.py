"""Why locks were lost: what the server's log and its database tell, in sentences. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vmguard.core.servers.facts import ServerFacts
from vmguard.core.words import printable

#: pattern of a line -> what it means (fs/nfsd/nfs4state.c, nfs4recover.c, fs/lockd/svc.c)
_MEANINGS = (
    (
        r"no clients to reclaim, skipping NFSv4 grace period",
        "nobody was on record: a first start, or the server FORGOT its clients and let none of them reclaim",
    ),
    (
        r"starting \d+-second grace period",
        "the server was started; hosts on record may reclaim their locks from here on",
    ),
    (r"all clients done reclaiming", "every host on record had come back: the grace period ended early"),
    (r"end of grace period|grace period ended", "the grace period ended: a host that had not come back lost its locks"),
    (r"Using .* client tracking operations", "by this it writes its clients down for the next reboot"),
    (r"client tracking|nfsdcld|recovery|[Ss]table storage", "about the record of its clients"),
    (r"last server has exited|shutting down", "the server was stopped"),
    (r"lockd.*grace|nlm", "about NFSv3's lock manager, whose grace period holds up NFSv4 locks, too"),
)


@dataclass(frozen=True)
class Entry:
    """A line of the server's log: how long ago, what it says, what it means."""

    age: float
    text: str
    meaning: str


def entries(facts: ServerFacts, since: float) -> list[Entry]:
    """Return the lines of the last ``since`` seconds that bear on locks, in their order."""
    found = []
    for line in facts.log or ():
        if line.age <= since and (meaning := _meaning(line.text)):
            found.append(Entry(line.age, line.text, meaning))
    return found


def _meaning(text: str) -> str:
    return next((meaning for pattern, meaning in _MEANINGS if re.search(pattern, text)), "")


def conclusions(facts: ServerFacts, me: str, on_record: bool | None) -> list[str]:
    """Return what the facts of now come to, for this host."""
    found = []
    if facts.uptime is not None:
        found.append(f"the server booted {facts.uptime:.0f} s ago")
    if facts.grace.missing:
        names = ", ".join(printable(name) for name in facts.grace.missing[:5])
        found.append(f"in grace: not back yet: {names}")
    if on_record is False:
        found.append(f"{me} is not on the server's record: at a reboot it could reclaim nothing")
    elif on_record:
        found.append(f"{me} is on the server's record")
    if facts.memory is not None and facts.memory.epoch is not None:
        found.append(f"the record is of epoch {facts.memory.epoch}; each start of the server begins one")
    return found
