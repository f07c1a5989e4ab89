"""All that libvirt does to the files of a VM that runs, in an order in which each step can be done on what is there.

    for step in steps(path):
        virsh(*step.words)
        # now QEMU has step.open open, each file in that mode, and nothing else below path()

For the scenario that checks each step (test_libvirt_files.py) and the bench that times them (tests/bench/operations).
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

#: from the short name of a file to where it lies
Path = Callable[[str], str]


@dataclass(frozen=True)
class Step:
    """One command of virsh, and what QEMU has open after it: mode by file; nothing when there is no QEMU then."""

    title: str
    words: tuple[str, ...]
    open: dict[str, str] = field(default_factory=dict)
    #: the guest starts anew, within the same QEMU
    resets: bool = False


def files(path: Path) -> dict[str, bytes]:
    """What must be there before the first step."""
    return {
        path("base.qcow2"): heartbeat_disk("qcow2"),
        path("extra.qcow2"): heartbeat_disk("qcow2"),
        path("cd.raw"): heartbeat_disk("raw"),
        path("extra.xml"): _SCSI.format(path("extra.qcow2")).encode(),
    }


def made(path: Path) -> list[str]:
    """What the steps make, and what must not be there before."""
    return [path("snap.qcow2"), path("copy.qcow2")]


def domain(path: Path) -> str:
    return domain_xml(NAME, disk_xml(path("base.qcow2")), more=_CDROM)


def steps(path: Path) -> list[Step]:
    """From the start to the end of the VM."""
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
