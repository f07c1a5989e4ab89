"""A real libvirtd in a guest, made fast: ready after 1 s, a VM on NFS starts in 1 to 2 s.

Two things make libvirt slow on a slow machine, and both concern its cached QEMU capabilities:

- creating them takes 18 s of queries to QEMU. They are kept in tests/lab/.cache for all guests of this machine; libvirt
  itself checks that they still match libvirtd and QEMU, and creates them again after a package has changed;
- with the flag cpu-unavailable-features in them, each start of a VM queries 400 CPU properties, one message each, 20 s
  in all. Without that flag libvirt queries the CPU as it did with older QEMUs, with 3 messages.
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.lab.domain import SERIAL
from tests.lab.errors import LabError, Result

if TYPE_CHECKING:
    from tests.lab.guest import Guest

CACHE: Final = Path(__file__).parent / ".cache"
CAPABILITIES: Final = CACHE / "capabilities.tar"
CAPABILITIES_FOLDER: Final = "/var/cache/libvirt/qemu/capabilities"
SLOW_FLAG: Final = b"  <flag name='cpu-unavailable-features'/>\n"

# Open to every peer: a lab's network has no way out.
LIBVIRTD_CONF: Final = """\
auth_unix_rw = "none"
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""
LIBVIRTD: Final = "libvirtd --daemon --listen"
# No namespaces and no cgroups: a guest has none to give. stdio_handler: one daemon less to start.
QEMU_CONF: Final = """\
user = "{user}"
group = "{user}"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""


class Libvirt:
    """libvirtd in one guest, and virsh to talk to it.

    host.libvirt.create(domain_xml("vm1", "/srv/vm/vm1.qcow2"))
    host.libvirt.beats("vm1")            what the heartbeat VM printed
    host.libvirt.virsh("destroy", "vm1")
    host.libvirt.restart()               as after an upgrade; running VMs go on
    """

    def __init__(self, guest: Guest, user: str) -> None:
        self._guest = guest
        self._user = user

    def prepare(self) -> None:
        """Configure and start libvirtd; called by the guest's prepare()."""
        run = self._guest.prepare_run
        conf = self._guest.share / "libvirt"
        conf.mkdir(exist_ok=True)
        (conf / "libvirtd.conf").write_text(LIBVIRTD_CONF)
        (conf / "qemu.conf").write_text(QEMU_CONF.format(user=self._user))
        with contextlib.suppress(FileNotFoundError):
            (conf / "capabilities.tar").write_bytes(CAPABILITIES.read_bytes())
        run(f"""
            mkdir -p {CAPABILITIES_FOLDER}
            cp /lab/libvirt/*.conf /etc/libvirt/
            [ ! -e /lab/libvirt/capabilities.tar ] || tar -C {CAPABILITIES_FOLDER} -xf /lab/libvirt/capabilities.tar
            {LIBVIRTD}
            virsh -q -c qemu:///system domcapabilities --virttype qemu > /dev/null
        """, 180)  # fmt: skip
        made = run(f"tar -C {CAPABILITIES_FOLDER} -cf - .").stdout_bytes
        if SLOW_FLAG in made:
            (conf / "capabilities.tar").write_bytes(_keep(made))
            run(f"""
                kill $(cat /run/libvirtd.pid)
                while [ -e /run/libvirtd.pid ]; do sleep 0.1; done
                tar -C {CAPABILITIES_FOLDER} -xf /lab/libvirt/capabilities.tar
                {LIBVIRTD}
                virsh -q -c qemu:///system domcapabilities --virttype qemu > /dev/null
            """, 60)  # fmt: skip

    def virsh(self, *words: str, timeout: float = 60.0, check: bool = True, input: str | None = None) -> Result:
        return self._guest.run(["virsh", "-q", "-c", "qemu:///system", *words], timeout, check, input)

    def define(self, xml: str) -> None:
        self.virsh("define", "/dev/stdin", input=xml)

    def create(self, xml: str, timeout: float = 60.0) -> None:
        """Start a transient VM; `timeout` in seconds."""
        self.virsh("create", "/dev/stdin", input=xml, timeout=timeout)

    def migrate(self, name: str, target: Guest, *words: str, timeout: float = 60.0, check: bool = True) -> Result:
        """Migrate a running VM to the libvirtd of another guest."""
        where = [f"qemu+tcp://{target.address}/system", f"tcp://{target.address}"]
        return self.virsh("migrate", "--live", *words, name, *where, timeout=timeout, check=check)

    def beats(self, name: str) -> str:
        """Return the marks that a heartbeat VM has printed in this guest: '.' a completed write, 'E' a failed one."""
        return self._guest.run(["cat", SERIAL.format(name)], check=False).stdout

    def qemu_pid(self, name: str) -> int:
        return int(self._guest.get(f"/run/libvirt/qemu/{name}.pid"))

    def kill(self, signal: int = 9) -> None:
        """End libvirtd and wait until it is gone; VMs keep running."""
        self._guest.run(
            f"pid=$(cat /run/libvirtd.pid) && kill -{signal} $pid && while [ -e /proc/$pid ]; do sleep 0.05; done"
        )

    def start(self, timeout: float = 60.0) -> None:
        """Start libvirtd; return once it answers."""
        self._guest.run(f"{LIBVIRTD} && virsh -c qemu:///system list", timeout)

    def restart(self) -> None:
        self.kill(15)
        self.start()


def _keep(made: bytes) -> bytes:
    """Store libvirt's QEMU capabilities for later guests, without the slow flag; return what was stored."""
    output = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(made)) as source, tarfile.open(fileobj=output, mode="w") as target:
        for entry in source:
            file = source.extractfile(entry)
            if file is None:
                continue
            text = file.read()
            if SLOW_FLAG not in text:
                raise LabError(f"libvirt describes QEMU otherwise than expected: {entry.name}")
            text = text.replace(SLOW_FLAG, b"")
            entry.size = len(text)
            target.addfile(entry, io.BytesIO(text))
    CACHE.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=CACHE, delete=False) as file:
        file.write(output.getvalue())
    os.replace(file.name, CAPABILITIES)  # another process may be doing the same
    return output.getvalue()
