"""libvirt's XML for the heartbeat VM: a minimal machine, which starts fast."""

from __future__ import annotations

import uuid as uuids
from xml.sax.saxutils import escape, quoteattr

SERIAL = "/var/log/libvirt/qemu/{}.serial"  # in the guest; what the VM prints: one mark per write, see heartbeat.s

TEMPLATE = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='{machine}'>hvm</type><boot dev='hd'/></os>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {disks}
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='file'><source path={serial}/></serial>
    {more}
  </devices>
</domain>
"""

DISK = """\
<disk type='file' device='disk'>
      <driver name='qemu' type='{format}' cache='{cache}' error_policy='report'/>
      <source file={file}/><target dev='vd{letter}' bus='virtio'/>{flag}
    </disk>"""


def disk_xml(file: str, letter: str = "a", format: str = "qcow2", cache: str = "none", flag: str = "") -> str:
    """Return a disk element. flag: "<readonly/>" or "<shareable/>"."""
    return DISK.format(file=quoteattr(file), letter=letter, format=format, cache=cache, flag=flag)


def domain_xml(
    name: str,
    *disks: str,
    uuid: str | None = None,
    memory: int = 16,
    machine: str = "pc",
    more: str = "",
) -> str:
    """Return a domain with these disks, each a path (a qcow2 file on vda, vdb...) or XML from disk_xml().

    memory: MiB. uuid None: derived from the name, the same on every host. more: further devices.
    """
    parts = [d if d.startswith("<") else disk_xml(d, letter) for d, letter in zip(disks, "abcdefgh", strict=False)]
    return TEMPLATE.format(
        name=escape(name),
        uuid=uuid or uuids.uuid5(uuids.NAMESPACE_DNS, name),
        memory=memory,
        machine=machine,
        disks="\n    ".join(parts),
        serial=quoteattr(SERIAL.format(name)),
        more=more,
    )
