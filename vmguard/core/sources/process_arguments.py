"""Recognise the processes that do a VM's I/O (QEMU and its helpers) by program and arguments. No system calls."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice


class Kind(enum.StrEnum):
    """The role of a process for a VM."""

    QEMU = "qemu"
    STORAGE_DAEMON = "qemu-storage-daemon"
    SWTPM = "swtpm"
    VIRTIOFSD = "virtiofsd"


#: kinds that run a VM or export disks on their own, without a parent of these kinds
MASTERS = frozenset({Kind.QEMU, Kind.STORAGE_DAEMON})

_QEMU_NAMES = ("kvm", "qemu-kvm", "qemu")
_GONE = " (deleted)"
_TELLING = ("qemu", "kvm", Kind.SWTPM, Kind.VIRTIOFSD)
_STAND_INS = ("python", "perl", "ld-", "ld.so")
#: the longest VM name in a helper's paths (libvirt conf/domain_conf.c, virDomainDefGetShortName)
_SHORT_NAME_CHARS = 20

_SHORT_NAME = re.compile(r"/domain-\d+-([^/\n]+)/")
#: Proxmox's files of a VM: sockets and pid files of its QEMU, its swtpm and its qemu-storage-daemon
_PVE_FILE = re.compile(r"/qemu-server/(?:qsd-)?([1-9]\d{2,8})\.(?:pid|qmp|swtpm)\b")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: options of QEMU's that say which VM it runs
_TELLING_OPTIONS = frozenset({"name", "uuid", "smbios", "pidfile", "id", "incoming"})
#: what a word costs beyond its characters, and a word that is longer than any of those
_WORD_COSTS, _LONGEST_WORD = 64, 4096
#: VMs that a helper can serve
_MOST_SERVED = 16
#: file=, filename= and path= of a -drive or -blockdev, in both forms; a comma in a path is doubled
_NAMED_FILE = re.compile(
    r'(?:^|,)(?:[\w.-]+\.)?(?:file|filename|path)=((?:[^,]|,,)+)|"filename"\s*:\s*"((?:[^"\\]|\\.)+)"'
)


def kind_of(program: str, arguments: Sequence[str]) -> Kind | None:
    """Return the kind of a process, by its program file or its argv[0]; None for any other process."""
    for word in (program.removesuffix(_GONE), arguments[0] if arguments else ""):
        name = word.rpartition("/")[2]
        if name in _QEMU_NAMES or name.startswith("qemu-system-"):
            return Kind.QEMU
        for kind in (Kind.STORAGE_DAEMON, Kind.SWTPM, Kind.VIRTIOFSD):
            if name == kind:
                return kind
    return None


class Likelihood(enum.IntEnum):
    """How much a process looks like one that does a VM's I/O, before its arguments are known."""

    NONE = 0
    #: an interpreter or a loader: its first argument may say that it is QEMU
    POSSIBLE = 1
    LIKELY = 2


def likelihood(program: str, comm: str) -> Likelihood:
    """Judge a process by its program file and its short name (comm): two reads that never hang.

    Looser than ``kind_of``, which has the last word: a program may be called ``.qemu-system-x86_64-wrapped`` by whoever
    wraps it, and comm holds 15 letters.
    """
    name = program.removesuffix(_GONE).rpartition("/")[2]
    if any(word in name or word in comm for word in _TELLING):
        return Likelihood.LIKELY
    return Likelihood.POSSIBLE if (name or comm).startswith(_STAND_INS) else Likelihood.NONE


@dataclass(frozen=True)
class Identity:
    """The identity of a QEMU, from its own arguments."""

    name: str = ""
    uuid: str = ""
    pid_file: str = ""
    #: the VM's number on Proxmox (``-id``)
    vmid: str = ""
    #: it waits for a VM's memory from elsewhere: another host may rightly still hold the disks
    incoming: bool = False


def identity(arguments: Sequence[str]) -> Identity:
    """Read QEMU's arguments as QEMU does, as far as they matter here."""
    following = {word.removeprefix("-"): after for word, after in zip(arguments, arguments[1:], strict=False)}
    pid_file = following.get("pidfile", "")
    of_proxmox = _PVE_FILE.search(pid_file)
    uuid = (following.get("uuid") or _option(following.get("smbios", ""), "uuid")).lower()
    return Identity(
        name=_name(following.get("name", "")),
        uuid=uuid if _UUID.fullmatch(uuid) else "",
        pid_file=pid_file,
        vmid=following.get("id", "") or (of_proxmox[1] if of_proxmox else ""),
        incoming="-incoming" in arguments or "--incoming" in arguments,
    )


def telling(arguments: Sequence[str], most: int) -> list[str]:
    """Return what of a process's arguments fits into ``most`` bytes, first of all what says which VM it runs.

    A stranger has a thousand processes with megabytes of arguments each, and all of them call themselves QEMU.
    """
    words = len(arguments)
    if sum(map(len, arguments)) + _WORD_COSTS * words <= most:
        return list(arguments)
    told = [at for at in range(words - 1) if arguments[at].lstrip("-") in _TELLING_OPTIONS]
    others = sorted(set(range(1, words)).difference(told, (at + 1 for at in told)))
    kept: set[int] = set()
    for group in ([0], *([at, at + 1] for at in told), *([at] for at in others)):
        fresh = [at for at in group if at not in kept]
        costs = sum(len(arguments[at]) + _WORD_COSTS for at in fresh)
        if all(len(arguments[at]) <= _LONGEST_WORD for at in fresh) and costs <= most:
            most -= costs
            kept.update(fresh)
    return [arguments[at] for at in sorted(kept)]


def _name(value: str) -> str:
    """Read ``guest=web,debug-threads=on``, ``web`` or ``web,process=...``; a comma in a name is doubled."""
    parts = value.replace(",,", "\0").split(",")
    for part in parts:
        if part.startswith("guest="):
            return part.removeprefix("guest=").replace("\0", ",")
    return parts[0].replace("\0", ",") if "=" not in parts[0] else ""


def _option(value: str, wanted: str) -> str:
    for part in value.split(","):
        if part.startswith(wanted + "="):
            return part[len(wanted) + 1 :]
    return ""


def named_files(arguments: Sequence[str]) -> set[str]:
    """Return the paths that the arguments name as images, without other files that QEMU writes (logs, pid files)."""
    found = set()
    for word in arguments:
        for plain, quoted in _NAMED_FILE.findall(word):
            path = plain.replace(",,", ",") if plain else re.sub(r"\\(.)", r"\1", quoted)
            found.add(path.removeprefix("file:"))
    return {path for path in found if path.startswith("/")}


@dataclass(frozen=True)
class Served:
    """The VMs that a helper's arguments name.

    By uuid (swtpm's state folder), by libvirt's folder for the VM, or by the number in the names of Proxmox's files.
    """

    uuids: frozenset[str]
    short_names: frozenset[str]
    vmids: frozenset[str]


def served(arguments: Sequence[str]) -> Served:
    """Return the VMs that a helper's arguments name."""
    words = "\n".join(arguments)
    uuids = frozenset(match[0] for match in islice(_UUID.finditer(words.lower()), _MOST_SERVED))
    short_names = frozenset(match[1] for match in islice(_SHORT_NAME.finditer(words), _MOST_SERVED))
    return Served(uuids, short_names, frozenset(match[1] for match in islice(_PVE_FILE.finditer(words), _MOST_SERVED)))


def short_name(name: str) -> str:
    """Return a VM's name as libvirt shortens it in the paths of the VM's helpers."""
    return name[:_SHORT_NAME_CHARS]
