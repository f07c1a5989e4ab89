"""The probe: what a Linux NFS server knows of itself, as one JSON document on standard output.

A program of its own, for Python 3.6 and later, with the standard library alone: it is sent to the server on the
standard input of ``python3 -I -`` (vmguard/adapters/servers/transport.py), or lies there as the command that an ssh key
may start and nothing else (``command="/usr/local/sbin/vmguard-storage-probe report",restrict`` in authorized_keys).

    report                       reads; changes nothing
    block ADDRESS                has the server's firewall drop what comes from an address
    unblock ADDRESS              takes that back
    release NAME CLIENTID        expires exactly one client, which has not renewed its lease for a lease's time

NAME is in hex. What a file holds is passed on as it is, as far as there is room: the reader judges it
(vmguard/core/servers). No annotation here is evaluated that Python 3.6 does not know.
"""

import errno
import ipaddress
import json
import os
import sqlite3
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = 1
NFSD = "/proc/fs/nfsd"
CLIENTS = NFSD + "/clients"
DATABASE = "/var/lib/nfs/nfsdcld/main.sqlite"
FILES = {
    "nfsv4leasetime": NFSD + "/nfsv4leasetime",
    "nfsv4gracetime": NFSD + "/nfsv4gracetime",
    "v4_end_grace": NFSD + "/v4_end_grace",
    "threads": NFSD + "/threads",
    "versions": NFSD + "/versions",
    "nlm_end_grace": "/proc/fs/lockd/nlm_end_grace",
    "nlm_grace_period": "/proc/sys/fs/nfs/nlm_grace_period",
    "nlm_timeout": "/proc/sys/fs/nfs/nlm_timeout",
    "leases": "/proc/sys/fs/leases-enable",
    "boot_id": "/proc/sys/kernel/random/boot_id",
    "locks": "/proc/locks",
    "etab": "/var/lib/nfs/etab",
}
#: bytes of one file, and of all together
FILE_BYTES = 1 << 18
ALL_BYTES = 6 << 20
CLIENTS_AT_MOST = 4000
LOG_LINES = 400
#: ids of one epoch
RECORDS = 4000
#: seconds that a write to a client's ctl may take: it waits for that client's requests (force_expire_client)
EXPIRE_SECONDS = 10.0
TABLE = "vmguard_storage"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Room:
    """How many bytes may still be read."""

    def __init__(self) -> None:
        self.left = ALL_BYTES

    def text(self, path: str) -> "tuple[str, bool]":
        """Return a file's text and whether it was cut. Raises OSError."""
        most = max(0, min(FILE_BYTES, self.left))
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        data = b""
        try:
            while len(data) <= most:
                piece = os.read(fd, most + 1 - len(data))
                if not piece:
                    break
                data += piece
        finally:
            os.close(fd)
        cut = len(data) > most
        self.left -= min(len(data), most)
        return data[:most].decode("utf-8", "surrogateescape"), cut


def report() -> "dict[str, Any]":
    room = Room()
    unknown: list[str] = []
    name = os.uname()
    found: dict[str, Any] = {
        "vmguard_probe": VERSION,
        "host": name.nodename,
        "kernel": name.sysname + " " + name.release,
        "uptime": uptime(),
        "files": files(room, unknown),
        "nfsdcld": runs("nfsdcld"),
        "database": database(),
        "mounts": mounts(),
    }
    log = kernel_log(unknown)
    if log is not None:
        found["log"] = log
    clients = all_clients(room, unknown)
    if clients is not None:
        found["clients"] = clients
    found["unknown"] = unknown
    return found


def uptime() -> float:
    with open("/proc/uptime") as stream:
        return float(stream.read().split()[0])


def files(room: Room, unknown: "list[str]") -> "dict[str, str]":
    found = {}
    for key, path in FILES.items():
        try:
            found[key] = room.text(path)[0]
        except OSError as problem:
            if problem.errno != errno.ENOENT:
                unknown.append(f"{path}: {problem.strerror}")
    if "v4_end_grace" not in found and "threads" not in found:
        unknown.append(f"{NFSD} is not mounted here, or nfsd is not loaded")
    return found


def runs(program: str) -> "bool | None":
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                with open(f"/proc/{pid}/comm", errors="replace", newline="\n") as stream:
                    if stream.read().strip() == program:
                        return True
            except OSError:
                pass
    return False


def database(path: str = DATABASE) -> "dict[str, Any]":
    """The recovery database of nfsdcld (nfs-utils, schema 4): never written to, never waited for."""
    found: dict[str, Any] = {"path": path, "filesystem": filesystem_of(path)}
    try:
        link = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1.0)
        link.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        try:
            row = link.execute("SELECT current, recovery FROM grace").fetchone()
            found["current"], found["recovery"] = (int(row[0]), int(row[1])) if row else (0, 0)
            names = link.execute("SELECT name FROM sqlite_master WHERE type='table' AND name LIKE 'rec-%' LIMIT 64")
            found["epochs"] = [epoch(link, name) for (name,) in names.fetchall()]
        finally:
            link.close()
    except (sqlite3.Error, ValueError, TypeError) as problem:
        found["problem"] = str(problem)
    return found


def epoch(link: sqlite3.Connection, name: str) -> "dict[str, Any]":
    quoted = name.replace('"', '""')
    query = f'SELECT id FROM "{quoted}" LIMIT {RECORDS}'
    ids = [bytes(row[0]) if isinstance(row[0], bytes) else str(row[0]).encode() for row in link.execute(query)]
    return {"name": name, "clients": [one.rstrip(b"\0").decode("utf-8", "surrogateescape") for one in ids]}


def mount_lines() -> "list[tuple[str, str, str]]":
    """Device as the server's states have it (hex), mount point and type of each mount."""
    found = []
    with open("/proc/self/mountinfo", errors="surrogateescape", newline="\n") as stream:
        for line in stream:
            left, _, right = line.partition(" - ")
            words, kind = left.split(" "), right.split(" ")[0]
            if len(words) > 4:
                major, _, minor = words[2].partition(":")
                device = f"{int(major):02x}:{int(minor):02x}"
                point = words[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
                found.append((device, point, kind))
    return found


def mounts() -> "list[dict[str, str]]":
    return [
        {"device": device, "point": point, "type": kind}
        for device, point, kind in mount_lines()[:2000]
        if not device.startswith("00:") or kind in ("tmpfs", "btrfs", "zfs", "overlay", "ramfs")
    ]


def filesystem_of(path: str) -> str:
    best = ("", "")
    real = os.path.realpath(path)
    for _, point, kind in mount_lines():
        if (point == "/" or real == point or real.startswith(point + "/")) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def kernel_log(unknown: "list[str]") -> "list[dict[str, Any]] | None":
    """The kernel's lines about nfsd and lockd, with the seconds after boot at which they were written."""
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError as problem:
        unknown.append(f"the kernel's log: {problem.strerror}")
        return None
    found = []
    try:
        while True:
            try:
                record = os.read(fd, 8192)
            except OSError as problem:
                if problem.errno == errno.EPIPE:  # the log ran over us: go on with what is there
                    continue
                break
            head, _, text = record.decode("utf-8", "surrogateescape").partition(";")
            text = text.partition("\n")[0]
            parts = head.split(",")
            if len(parts) > 2 and parts[2].isdigit() and any(word in text for word in ("NFSD", "nfsd", "lockd")):
                found.append({"at": int(parts[2]) / 1e6, "text": text[:500]})
    finally:
        os.close(fd)
    return found[-LOG_LINES:]


def all_clients(room: Room, unknown: "list[str]") -> "list[dict[str, Any]] | None":
    try:
        numbers = sorted(filter(str.isdigit, os.listdir(CLIENTS)), key=int)
    except OSError as problem:
        unknown.append(f"{CLIENTS}: {problem.strerror}")
        return None
    found = []
    for number in numbers[:CLIENTS_AT_MOST]:
        try:
            info, _ = room.text(f"{CLIENTS}/{number}/info")
            states, cut = room.text(f"{CLIENTS}/{number}/states")
        except OSError as problem:
            if problem.errno not in (errno.ENOENT, errno.ENXIO):
                unknown.append(f"client {number}: {problem.strerror}")
            continue
        found.append({"number": number, "info": info, "states": states, "cut": cut})
    if len(numbers) > CLIENTS_AT_MOST:
        unknown.append(f"{len(numbers) - CLIENTS_AT_MOST} more clients")
    return found


# -- what changes the server ------------------------------------------------------------------------------------------


class Refused(Exception):
    """It is not done; the message says why."""


def fields(info: str) -> "dict[str, str]":
    found: dict[str, str] = {}
    for line in info.split("\n"):
        key, colon, value = line.partition(": ")
        if colon:
            found.setdefault(key, value.strip('"'))
    return found


def release(name: str, clientid: str) -> "dict[str, Any]":
    """Expire the one client that has this name and this id. Raises Refused."""
    try:
        wanted = bytes.fromhex(name).decode("utf-8", "surrogateescape")
        number = int(clientid, 16)
    except ValueError:
        raise Refused("the client is not named as it must be") from None
    room = Room()
    hits = []
    for client in all_clients(room, []) or []:
        about = fields(client["info"])
        same = about.get("name", "").replace("\\x5c", "\\") == wanted
        if same and about.get("clientid", "").startswith("0x") and int(about["clientid"], 16) == number:
            hits.append((client["number"], about))
    if len(hits) != 1:
        raise Refused(f"{len(hits)} clients have this name and this id")
    where, about = hits[0]
    lease = int(room.text(FILES["nfsv4leasetime"])[0])
    idle = about.get("seconds from last renew", "")
    if not idle.isdigit() or int(idle) < lease:
        raise Refused(f"it renewed its lease {idle or '?'} s ago, and a lease is {lease} s")
    expire(f"{CLIENTS}/{where}/ctl")
    return {"vmguard_probe": VERSION, "released": where, "idle": int(idle)}


def expire(path: str) -> None:
    """Write to the client's ctl, in a child that nobody waits for any longer than that. Raises Refused."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            fd = os.open(path, os.O_WRONLY)
            os.write(fd, b"expire\n")
            status = 0
        except OSError as problem:
            status = problem.errno or 1
        finally:
            os._exit(status & 255)
    deadline = time.monotonic() + EXPIRE_SECONDS
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            if status:
                raise Refused(f"the kernel says: {os.strerror(os.WEXITSTATUS(status))}")
            return
        time.sleep(0.05)
    raise Refused(f"the kernel still waits for its requests after {EXPIRE_SECONDS:.0f} s")


def nft(*words: str, **options: str) -> str:
    environment = {"PATH": PATH, "LC_ALL": "C"}
    try:
        done = subprocess.Popen(
            ["nft", *list(words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        said, _ = done.communicate(options.get("stdin", "").encode(), 10)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise Refused(f"nft: {problem}") from None
    if done.returncode:
        raise Refused("nft: {}".format(said.decode("utf-8", "replace").strip()[:300]))
    return said.decode("utf-8", "replace")


def family(address: str) -> "tuple[str, str]":
    """The family of nft that an address belongs to, and the address as nft writes it. Raises Refused.

    Not inet, which is both at once: not every kernel has it (CONFIG_NF_TABLES_INET).
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        raise Refused("this is no address") from None
    if found.is_loopback or found.is_unspecified:
        raise Refused(f"{found} is the server itself")
    return ("ip" if found.version == 4 else "ip6"), str(found)


RULES = """
table {0} {1} {{
  set blocked {{ type {2}; }}
  chain input {{ type filter hook input priority -300; policy accept; }}
}}
flush chain {0} {1} input
add rule {0} {1} input {0} saddr @blocked drop
"""


def block(address: str) -> "dict[str, Any]":
    """Have the firewall drop all that comes from an address; read back whether it does. Raises Refused."""
    name, shown = family(address)
    nft("-f", "-", stdin=RULES.format(name, TABLE, "ipv4_addr" if name == "ip" else "ipv6_addr"))
    nft("add", "element", name, TABLE, "blocked", f"{{ {shown} }}")
    listed = nft("list", "table", name, TABLE)
    if shown not in listed or "drop" not in listed:
        raise Refused(f"the firewall does not list {shown}")
    return {"vmguard_probe": VERSION, "blocked": shown}


def unblock(address: str) -> "dict[str, Any]":
    name, shown = family(address)
    nft("delete", "element", name, TABLE, "blocked", f"{{ {shown} }}")
    return {"vmguard_probe": VERSION, "unblocked": shown}


def main(words: "list[str]") -> int:
    orders = {"report": (report, 0), "block": (block, 1), "unblock": (unblock, 1), "release": (release, 2)}
    order, count = orders.get(words[0] if words else "report", (None, 0))
    try:
        if order is None or len(words[1:]) != count:
            raise Refused("no such order: {}".format(" ".join(words)))
        answer = order(*words[1:])  # type: ignore[operator]
    except Refused as refused:
        answer = {"vmguard_probe": VERSION, "problem": str(refused)}
    except OSError as problem:
        answer = {"vmguard_probe": VERSION, "problem": "{}: {}".format(problem.filename or "?", problem.strerror)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--asked"]:  # of a forced command: what the caller asked for, behind "-"
        sys.argv[1:] = os.environ.get("SSH_ORIGINAL_COMMAND", "").rpartition(" - ")[2].split()
    sys.exit(main(sys.argv[1:]))
