"""Documents as the probe prints them on a Linux server, to be changed by a test."""

from __future__ import annotations

import json
from typing import Any

Document = dict[str, Any]

INFO = """\
clientid: {clientid}
address: "{address}"
status: {state}
seconds from last renew: {idle}
name: "{name}"
minor version: {minor}
Implementation domain: "kernel.org"
Implementation name: "Linux 6.1.0 #1"
Implementation time: [0, 0]
callback state: UP
callback address: {address}
"""


def lock(inode: int, file: str, device: str = "62:00", kind: str = "lock") -> str:
    """A line of a client's states, as nfs4_show_lock writes it."""
    access = "" if kind == "lock" else " access: rw, deny: --,"
    return (
        f'- 0x01000000{inode:024x}: {{ type: {kind},{access} superblock: "{device}:{inode}", filename: "{file}", '
        'owner: "lock id:..." }\n'
    )


def client(
    host: str,
    number: int = 3,
    states: str = "",
    idle: int = 2,
    state: str = "confirmed",
    address: str = "10.77.0.11:791",
    minor: int = 2,
) -> Document:
    name = f"Linux NFSv4.{minor} {host}"
    info = INFO.format(clientid=f"0x{number:016x}", address=address, state=state, idle=idle, name=name, minor=minor)
    return {"number": str(number), "info": info, "states": states, "cut": False}


def document(clients: list[Document] | None = None, **more: Any) -> Document:
    """A server with a lease and a grace period of 90 s, out of grace, whose clients are on record."""
    found = clients if clients is not None else [client("hyp-a")]
    names = [one["info"].partition('name: "')[2].partition('"')[0] for one in found]
    return {
        "vmguard_probe": 1,
        "host": "nas",
        "kernel": "Linux 6.1.0",
        "uptime": 1000.0,
        "files": {
            "nfsv4leasetime": "90\n",
            "nfsv4gracetime": "90\n",
            "v4_end_grace": "Y\n",
            "threads": "8\n",
            "versions": "-3 +4 +4.1 +4.2\n",
            "etab": "/srv/vm\t*(rw,sync,wdelay)\n",
            "leases": "1\n",
        },
        "nfsdcld": True,
        "database": {
            "path": "/var/lib/nfs/nfsdcld/main.sqlite",
            "filesystem": "ext4",
            "current": 7,
            "recovery": 0,
            "epochs": [{"name": f"rec-{7:016x}", "clients": names}],
        },
        "mounts": [],
        "log": [{"at": 3.0, "text": "NFSD: Using nfsdcld client tracking operations."}],
        "clients": found,
        "unknown": [],
        **more,
    }


def in_grace(may: list[str], reclaimed: list[str], age: float = 12.0, **files: str) -> Document:
    """The same in its grace period: who may reclaim, by host, and who has; it was started ``age`` seconds ago."""
    made = document([client(host, number) for number, host in enumerate(reclaimed, 3)])
    made["files"] |= {"v4_end_grace": "N\n", **files}
    made["database"] |= {
        "recovery": 6,
        "epochs": [
            {"name": f"rec-{6:016x}", "clients": [f"Linux NFSv4.2 {host}" for host in may]},
            {"name": f"rec-{7:016x}", "clients": [f"Linux NFSv4.2 {host}" for host in reclaimed]},
        ],
    }
    made["log"].append({"at": 1000.0 - age, "text": "NFSD: starting 90-second grace period (net f0000000)"})
    return made


def encoded(made: Document) -> bytes:
    return json.dumps(made).encode()
