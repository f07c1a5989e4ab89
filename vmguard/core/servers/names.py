"""The id that a Linux host tells an NFSv4 server, and the host's name in it. Pure.

``Linux NFSv4.2 HOST``, or ``Linux NFSv4.2 UNIQUE-ID/HOST`` (nfs4_init_uniform_client_string in fs/nfs/nfs4proc.c). The
number is that of the protocol: a host with mounts of two versions has two ids.
"""

from __future__ import annotations

import re

_LINUX = re.compile(r"Linux NFSv4\.(\d+) (.+)", re.DOTALL)


def host_in(client: str) -> str:
    """Return the host's name in a client's id; the whole id if it is of another kind.

    >>> host_in("Linux NFSv4.2 5c0f/hyp-a")
    'hyp-a'
    """
    found = _LINUX.fullmatch(client)
    return found[2].rpartition("/")[2] if found is not None else client


def is_of(client: str, unique_id: str, host: str) -> bool:
    """Return whether an id is that of a host with this unique id (empty: none) and name."""
    found = _LINUX.fullmatch(client)
    return found is not None and found[2] == (f"{unique_id}/{host}" if unique_id else host)


def hosts(clients: list[str]) -> list[str]:
    """Return the hosts of some ids, each once, in order."""
    return sorted(dict.fromkeys(map(host_in, clients)))
