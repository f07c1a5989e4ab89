"""Pass on libvirt's events, in a process of its own: ``libvirt_events URI FD FOLDER``.

To FD it writes an empty line when libvirt has taken the order to tell, and then a VM's uuid, a line each, whenever
something has happened that may have opened or closed one of its files; the uuid and `` io-error`` when QEMU could not
read or write one. A hint, nothing more. FOLDER is where libvirt-python lies: a helper starts without the folders of
installed libraries.

It is no thread of the daemon: a call to libvirtd may hang, and a process can be ended then; and libvirt's library with
all that it needs takes 16 MiB, a quarter of what the daemon may have.
"""

from __future__ import annotations

import os
import signal
import sys

from vmguard.adapters.linux.libc import libc

#: exit status: libvirt-python is not installed, it will not help to try again
MISSING = 3
#: what follows the uuid of a VM whose QEMU could not read or write
IO_ERROR = " io-error"
#: to connect and to register
_CONNECT_TIMEOUT_S = 15
#: between two signs of life that libvirtd is asked for
_KEEPALIVE_INTERVAL_S = 5
_KEEPALIVE_MISSES = 3
_EVENTS = ("LIFECYCLE", "BLOCK_JOB", "DISK_CHANGE", "TRAY_CHANGE", "DEVICE_ADDED", "DEVICE_REMOVED")
#: of LIFECYCLE: a guest that stands still or goes on opens nothing by that. It happens at the switch of a live
#: migration, where the processor is needed for other things
_NOTHING_OPENED = ("VIR_DOMAIN_EVENT_SUSPENDED", "VIR_DOMAIN_EVENT_RESUMED")
_PR_SET_PDEATHSIG = 1


def main() -> int:
    uri, fd, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.alarm(_CONNECT_TIMEOUT_S)
    sys.path.append(folder)
    try:
        import libvirt
    except ImportError:
        return MISSING
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    try:
        connection = libvirt.openReadOnly(uri)
        for event in _EVENTS:
            number = getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{event}")
            told = _tell_lifecycle if event == "LIFECYCLE" else _tell
            connection.domainEventRegisterAny(None, number, told, fd)
        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR, _tell_error, fd)
        connection.setKeepAlive(_KEEPALIVE_INTERVAL_S, _KEEPALIVE_MISSES)
    except libvirt.libvirtError:
        return 1
    signal.alarm(0)
    os.write(fd, b"\n")
    while connection.isAlive() == 1:
        libvirt.virEventRunDefaultImpl()
    return 1


def _tell(_connection: object, domain: object, *words: object) -> None:
    os.write(int(str(words[-1])), f"{domain.UUIDString()}\n".encode())  # type: ignore[attr-defined]


def _tell_lifecycle(connection: object, domain: object, event: int, *words: object) -> None:
    import libvirt

    if event not in [getattr(libvirt, name) for name in _NOTHING_OPENED]:
        _tell(connection, domain, *words)


def _tell_error(_connection: object, domain: object, *words: object) -> None:
    os.write(int(str(words[-1])), f"{domain.UUIDString()}{IO_ERROR}\n".encode())  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
