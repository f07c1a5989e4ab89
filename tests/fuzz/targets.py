"""What is fuzzed. A target ends, or raises an error of vmguard's own; anything else is a find."""

from __future__ import annotations

import binascii
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vmguard import config
from vmguard.adapters.linux import configured_mounts, mounts, mountstats, sockets, statefile
from vmguard.adapters.servers import knfsd
from vmguard.core import lean_json
from vmguard.core.locks import owner_record
from vmguard.core.servers import epilogue, release
from vmguard.core.servers.release import Signs
from vmguard.core.sources import domain_xml, image_header, image_name, process_arguments, pve_config, pve_plan
from vmguard.core.sources.pve_storage import parse_storages
from vmguard.daemon.api.claims import ClaimRequests
from vmguard.daemon.api.commands import Commands
from vmguard.daemon.api.questions import Questions
from vmguard.daemon.api.refused_starts import RefusedStarts
from vmguard.daemon.api.server import Server
from vmguard.daemon.api.sessions import Handler
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.descriptors import Descriptors
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import StorageThreads
from vmguard.doctor.judge_server import judge_server
from vmguard.errors import VmguardError
from vmguard.protocol import readers, wire
from vmguard.protocol.messages import ClaimedFileMessage, ClaimSettings
from vmguard.protocol.requests import REQUESTS, request_of

Target = Callable[[bytes], None]

#: files that a target reads are written here; memory, where there is such a file system
_FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
_STORAGES = (
    b"dir: local\n\tpath /var/lib/vz\n\nnfs: nas\n\texport /vm\n\tserver nas\n\tpath /mnt/pve/nas\n\tcontent images\n"
)
#: until a ping is answered: readers have to wait for their turn
_PATIENCE_S = 5.0
_FORMATS = (None, "qcow2", "qcow", "vmdk", "vdi", "vhdx", "vpc", "qed", "parallels", "raw")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _file(data: bytes, name: str) -> str:
    path = os.path.join(_FOLDER.name, name)
    Path(path).write_bytes(data)
    return path


def fuzz_domain_xml(data: bytes) -> None:
    domain_xml.parse_domain(data, defined=len(data) % 2 == 0)


def fuzz_server_document(data: bytes) -> None:
    """A storage server's answer, and all that is made of it for people."""
    facts = knfsd.parse(data)
    facts.grace.left(facts.times)
    judge_server("nas", facts, [131])
    epilogue.entries(facts, 1e9)
    for client in facts.clients or ():
        release.refusals(facts, client, "hyp-a", Signs())
    release.holder_of(facts, 131, "web.raw")


def fuzz_image_header(data: bytes) -> None:
    declared = _FORMATS[data[0] % len(_FORMATS)] if data else None
    image_header.parse_header(data[1:], declared)
    image_header.parse_header(data[1:], declared, size=len(data) - 1)


def fuzz_image_name(data: bytes) -> None:
    text = _text(data)
    image_name.public(text)
    repr(image_name.parse_name(text, "qcow2"))


def fuzz_pve_config(data: bytes) -> None:
    found = pve_config.parse_config(data, "100")
    pve_plan.plan_vm(found, parse_storages(_STORAGES), "pve1")


def fuzz_pve_storage(data: bytes) -> None:
    storages = parse_storages(data)
    for volume in ("local:100/vm-100-disk-0.qcow2", "nas:iso/a.iso", "x:y"):
        with contextlib.suppress(VmguardError):
            storages.locate(volume, "pve1", "scsi0")


def fuzz_process_arguments(data: bytes) -> None:
    words = _text(data).split("\0")
    process_arguments.kind_of(words[0], words)
    process_arguments.likelihood(words[0], words[-1])
    process_arguments.identity(words)
    process_arguments.named_files(words)
    process_arguments.served(words)
    domain_xml.opens_storage(words[-1])


def fuzz_owner_record(data: bytes) -> None:
    """The bytes are what whoever may write on the share puts before a right checksum."""
    closing = b',"check":"%08x"}\n' % binascii.crc32(data.rstrip(b" "))
    found = owner_record.parse_slot(data.ljust(owner_record.SLOT_BYTES - len(closing)) + closing)
    if found is not None:
        again = owner_record.parse_slot(owner_record.slot(found))
        assert again is not None


def fuzz_lean_json(data: bytes) -> None:
    try:
        text = data.decode()
        value = lean_json.decode(text)
    except (ValueError, RecursionError):  # what decode promises
        return
    with contextlib.suppress(ValueError, RecursionError):  # encode refuses the infinities, which 1e999 is
        assert lean_json.decode(lean_json.encode(value)) == value or value != value or "nan" in repr(value)


def fuzz_wire(data: bytes) -> None:
    one, other = wire.pair()
    try:
        with contextlib.suppress(OSError):
            other._sock.send(data or b" ")
        one.settimeout(0.0)
        received = one.receive()
        if received is not None:
            _understand(received[0])
    finally:
        one.close()
        other.close()


def _understand(message: wire.Message) -> None:
    for parse in (request_of, ClaimedFileMessage.from_json, ClaimSettings.from_json):
        with contextlib.suppress(VmguardError):
            parse(message)


def fuzz_config(data: bytes) -> None:
    config.load([_file(data, "vmguard.yaml")])


def fuzz_mountinfo(data: bytes) -> None:
    table = list(mounts.parse_mountinfo(_text(data).splitlines(keepends=True)))
    for mount in table:
        mounts.kind_of(mount, table)
        mounts.why_other(mount)
        mounts.why_unsafe(mount)
    mounts.mount_of_path("/srv/vm/web.qcow2", table)


def fuzz_mountstats(data: bytes) -> None:
    for found in mountstats.parse_mountstats(_text(data).splitlines(keepends=True)):
        assert found.exchange_id >= 0
        found.count("SEEK")
        found.received("SEEK")
        found.errors("SEEK")


def fuzz_fstab(data: bytes) -> None:
    units = os.path.join(_FOLDER.name, "units")
    os.makedirs(units, exist_ok=True)
    Path(units, "srv-vm.mount").write_bytes(data)
    found = configured_mounts.shares(_file(data, "fstab"), [units], [])
    configured_mounts.absent_below("/srv/vm/web.qcow2", found, [])


def fuzz_state_file(data: bytes) -> None:
    folder = os.path.join(_FOLDER.name, "run")
    os.makedirs(os.path.join(folder, "vms"), exist_ok=True)
    path = os.path.join(folder, "vms", "libvirt-x.json")
    Path(path).write_bytes(data)
    statefile.read(path)
    registry = Registry(folder)
    registry.load()
    for vm in registry:
        GuardedVm.from_json(json.loads(json.dumps(vm.as_json())))


class _Anyone:
    """In the place of whatever a handler hands a right request to."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: {} if name in ("health", "as_json") else name == "is_announced"


class _FrankLoop(Loop):
    """A loop that hides no exception of a callback."""

    def _guarded(self, callback: Callable[[], object]) -> None:
        callback()


class _Socket:
    """The daemon's server and all its handlers, without what stands behind them."""

    def __init__(self) -> None:
        self.loop = _FrankLoop()
        self.number = 0
        self.path = os.path.join(_FOLDER.name, wire.SOCKET_NAME)
        self.for_readers = readers.socket_path(_FOLDER.name)
        anyone: Any = _Anyone()
        registry, descriptors = Registry(_FOLDER.name), Descriptors(self.loop, anyone)
        handlers: dict[str, Handler] = {
            **ClaimRequests(self.loop, registry, anyone, lambda *_: anyone, anyone).handlers,
            **RefusedStarts(anyone).handlers,
            **Questions(_FOLDER.name, registry, anyone, descriptors, anyone).handlers,
            **Commands(anyone, lambda request, reply: reply([])).handlers,
            "ping": lambda request: {"ping": request.message.get("number")},
        }
        assert handlers.keys() == REQUESTS.keys()
        server = Server(self.loop, anyone, handlers, descriptors, StorageThreads(self.loop))
        server.listen(sockets.listen(self.path, wire.BACKLOG))
        server.listen(sockets.listen(self.for_readers, readers.BACKLOG), reads_only=True)

    def feed(self, path: str, datagrams: list[bytes]) -> None:
        """Send datagrams and a ping, and look for an answer to the ping. Raises AssertionError if there is none."""
        connection = wire.connect(path, 1.0)
        try:
            for datagram in datagrams:
                connection._sock.send(datagram)
            self.number += 1
            connection.send({"op": "ping", "number": self.number})
            connection.settimeout(0.0)
            answer: wire.Message = {}
            end = time.monotonic() + _PATIENCE_S
            while time.monotonic() < end:
                self.loop.call_in(0.0, lambda: None)
                self.loop.turn()
                with contextlib.suppress(BlockingIOError):
                    while (received := connection.receive()) is not None:
                        answer = received[0]
                        for fd in received[1]:
                            os.close(fd)
                        assert "failed at this request" not in str(answer), answer
                if answer.get("ping") == self.number:
                    return
            raise AssertionError(f"no answer to a ping, the last one is {answer}")
        finally:
            connection.close()
        self.loop.call_in(0.0, lambda: None)
        self.loop.turn()


_servers: list[_Socket] = []


def fuzz_socket(data: bytes) -> None:
    _server().feed(_server().path, _datagrams(data))


def fuzz_readers(data: bytes) -> None:
    _server().feed(_server().for_readers, _datagrams(data))


def _server() -> _Socket:
    if not _servers:
        _servers.append(_Socket())
    return _servers[0]


def _datagrams(data: bytes) -> list[bytes]:
    return [datagram for datagram in data.split(b"\n") if datagram][:16]


TARGETS: dict[str, Target] = {
    name.removeprefix("fuzz_"): target for name, target in sorted(globals().items()) if name.startswith("fuzz_")
}


def run(name: str, data: bytes) -> None:
    """Run a target once. Raises whatever is not an error of vmguard's own."""
    with contextlib.suppress(VmguardError):
        TARGETS[name](data)
