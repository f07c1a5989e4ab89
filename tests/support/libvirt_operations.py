"""Everything libvirt does to the files of a running VM, as steps each of which works on what the one before left.

    for step in steps(path):
        virsh(*step.words)
        # QEMU now has the files in step.open open, each in that mode, and nothing else below path()

test_libvirt_files.py checks each step; tests/bench/operations measures how long each takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.lab.domain import disk_xml, domain_xml
from tests.lab.heartbeat import heartbeat_disk

NAME = "files"
EXCLUSIVE, SHARED = "exclusive", "shared"
_CDROM = """
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='hdc' bus='ide'/><readonly/></disk>
<controller type='scsi' model='virtio-scsi'/>
"""
_SCSI = """
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/>
<source file='{}'/><target dev='sdb' bus='scsi'/></disk>
"""

#: returns the full path for the short name of a file
Path = Callable[[str], str]


@dataclass(frozen=True)
class Step:
    """A virsh command and what QEMU has open after it: mode by file; empty if there is no QEMU then."""

    title: str
    words: tuple[str, ...]
    open: dict[str, str] = field(default_factory=dict)
    #: the guest restarts within the same QEMU
    resets: bool = False


def files(path: Path) -> dict[str, bytes]:
    """Return the files that must exist before the first step."""
    return {
        path("base.qcow2"): heartbeat_disk("qcow2"),
        path("extra.qcow2"): heartbeat_disk("qcow2"),
        path("cd.raw"): heartbeat_disk("raw"),
        path("extra.xml"): _SCSI.format(path("extra.qcow2")).encode(),
    }


def made(path: Path) -> list[str]:
    """Return the files that the steps create and that must not exist before."""
    return [path("snap.qcow2"), path("copy.qcow2")]


def domain(path: Path) -> str:
    return domain_xml(NAME, disk_xml(path("base.qcow2")), more=_CDROM)


def steps(path: Path) -> list[Step]:
    """Return all steps, from the VM's start to its end."""
    base, snap, copy, extra = (path(f"{name}.qcow2") for name in ("base", "snap", "copy", "extra"))
    snapshot = ("--disk-only", "--atomic", "--no-metadata", "--diskspec", f"vda,file={snap}")
    other = ("--diskspec", "hdc,snapshot=no")
    copying = ("--wait", "--pivot", "--transient-job", "--format", "qcow2")
    on_base, on_copy = {base: EXCLUSIVE}, {copy: EXCLUSIVE}
    return [
        Step("start", ("start", NAME), on_base),
        Step("hot-plug", ("attach-device", NAME, path("extra.xml")), {**on_base, extra: EXCLUSIVE}),
        Step("unplug", ("detach-disk", NAME, "sdb"), on_base),
        Step("insert a CD", _media(path("cd.raw"), "--insert"), {**on_base, path("cd.raw"): SHARED}),
        Step("eject it", _media("--eject"), on_base),
        Step("snapshot", ("snapshot-create-as", NAME, *snapshot, *other), {snap: EXCLUSIVE, base: SHARED}),
        Step("blockcommit", ("blockcommit", NAME, "vda", "--active", "--pivot", "--wait"), on_base),
        Step("blockcopy", ("blockcopy", NAME, "vda", "--dest", copy, *copying), on_copy),
        Step("reset", ("reset", NAME), on_copy, resets=True),
        Step("guest reboot", ("send-key", NAME, "KEY_LEFTCTRL", "KEY_LEFTALT", "KEY_DELETE"), on_copy, resets=True),
        Step("managed save", ("managedsave", NAME)),
        Step("restore", ("start", NAME), on_copy),
        Step("destroy", ("destroy", NAME)),
    ]


def _media(*words: str) -> tuple[str, ...]:
    return ("change-media", NAME, "hdc", *words, "--live")
