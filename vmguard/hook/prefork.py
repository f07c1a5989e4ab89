"""Processes started in advance for the next start, so that libvirt does not wait for an interpreter to come up.

A claim itself takes some milliseconds, and the start of Python before it as many again. So the daemon keeps a few
processes ready that have everything loaded, and the shim hooks/qemu, with nothing but what is built into the shell, has
one of them do the claim in its place:

* process K waits at ``K.ask`` and answers at ``K.answer``, two FIFOs in the folder ``standby`` of the run directory;
* a caller that creates ``K.taken`` (O_EXCL) has process K for itself, and writes its own pid, the operation and the
  VM's name to ``K.ask``: whatever else K might read of a process may hang (adapters/linux/may_block.py);
* K copies the shim's stdin and stderr and answers ``mine``; in the end it answers with the exit status, and exits.
  When K cannot serve a caller it answers ``plain``: the caller then starts an interpreter of its own, as it does when
  no process stands by, or when a read at ``K.answer`` ends because K is gone.

From ``mine`` on, K is the hook's process of vmguard/hook/claim.py, and has its child already: nothing stays locked when
K dies, and K gives up when its caller dies.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import sys
import time

from vmguard import faults
from vmguard.adapters.linux import mounts, pidfd
from vmguard.adapters.storage import backing_chain, lock_holder, owner_record
from vmguard.adapters.storage.files import Opener
from vmguard.core import LIBVIRT
from vmguard.core.lean_json import decode, encode
from vmguard.core.sources import domain_xml
from vmguard.errors import VmguardError
from vmguard.hook import absent_shares, claim, claim_incoming, claim_on_share, entry, libvirt, operations
from vmguard.hook.vm_to_claim import ProgressPipe, VmToClaim
from vmguard.protocol import messages, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: all that a claim needs, loaded before there is one
LOADED = (
    absent_shares,
    backing_chain,
    lock_holder,
    mounts,
    owner_record,
    claim,
    claim_incoming,
    claim_on_share,
    messages,
)

#: between the end of one process and the start of the next
_RESTART_DELAY_S = 1.0
#: that a caller may need from creating K.taken to writing its pid
_CALLER_TIMEOUT_S = 5.0
#: between two checks whether a caller died before it wrote its pid
_DEAD_CALLER_CHECK_S = 60.0
#: the shim's descriptors: its stdin, its stderr, its end of K.answer
_CALLER_FDS = (5, 2, 4)
#: a VM to rehearse with; the interpreter makes code faster that has run a few times (PEP 659)
_REHEARSAL_XML = b"""<domain type='kvm'><name>rehearsal</name><uuid>00000000-0000-0000-0000-000000000000</uuid><devices>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/proc/self/no/disk.raw'/>
<target dev='vda' bus='virtio'/></disk></devices></domain>"""
_REHEARSALS = 8
#: of a caller's words: more than any file name, and a VM's name is a part of some
_MAX_CALL_BYTES = 8192


def main() -> int:
    """Keep COUNT processes waiting in FOLDER until stdin ends: the daemon holds its other end."""
    folder, count = sys.argv[1], int(sys.argv[2])
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for name in os.listdir(folder):  # of a daemon before this one; a caller that has opened it already keeps it
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, name))
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    gc.disable()
    gc.freeze()
    waiting: set[int] = set()
    poll = select.poll()
    poll.register(wake_read, select.POLLIN)
    poll.register(0, select.POLLIN)
    while True:
        waiting -= set(_ended())
        while len(waiting) < count:
            waiting.add(_fork(folder))
        if any(fd == 0 for fd, _ in poll.poll()):
            return 0
        _empty(wake_read)
        time.sleep(_RESTART_DELAY_S)  # the VM that is just being started needs the processors more than the next one


def _ended() -> list[int]:
    """Reap the children that have ended; return their pids."""
    pids = []
    try:
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            pids.append(pid)
    except ChildProcessError:
        pass
    return pids


def _empty(fd: int) -> None:
    """Read a non-blocking pipe until it is empty."""
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        pass


def _fork(folder: str) -> int:
    """Start one process that stands by; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.umask(0o022)  # as libvirt's hooks have it: other hosts read the owner records
        _stand_by(os.path.join(folder, str(os.getpid())))
        status = 0
    finally:
        os._exit(status)


def _rehearse() -> None:
    """Do what a claim does, in advance: pages that a forked process touches are copied, which takes a millisecond."""
    for _ in range(_REHEARSALS):
        domain = domain_xml.parse_domain(_REHEARSAL_XML)
        decode(encode(VmToClaim(LIBVIRT, domain).domain.name))
        list(mounts.mounts())
        try:
            backing_chain.resolve(domain, Opener())
        except VmguardError:
            pass  # its disk does not exist


def _stand_by(place: str) -> None:
    """Wait for a caller, and follow its claim, which is the work of a child that is started in advance as well."""
    connection = wire.connect(entry.socket_path(), entry.CONNECT_TIMEOUT_S)
    connection.send({"op": "standby"})
    connection.settimeout(None)
    orders, order = os.pipe2(os.O_CLOEXEC)
    reports, report = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(order)
        os.close(reports)
        _rehearse()
        claim.work(lambda: _ordered(orders, connection), connection, ProgressPipe(report, parent))
    os.close(orders)
    os.close(report)
    call, answer = _await_call(place, reports)
    if call:
        _serve(call, answer, lambda caller: _claim(order, reports, child, connection, caller))


def _ordered(orders: int, connection: wire.Connection) -> VmToClaim | None:
    """Wait for the domain XML and begin its claim; return the VM, or None when there was no caller."""
    with open(orders, "rb") as stream:
        xml = stream.read()
    if not xml:
        return None
    vm = libvirt.vm_of(xml)
    claim.begin(vm, connection)
    return vm


def _claim(order: int, reports: int, child: int, connection: wire.Connection, caller: int) -> None:
    """Have the child claim the VM on stdin, and wait for its verdict. Raise VmguardError when the VM must not start."""
    with open(order, "wb") as stream:
        stream.write(libvirt.read_xml() or b"\n")
    for warning in claim.follow(reports, child, connection, caller=caller):
        entry.say(f"vmguard: warning: {warning}")


def _await_call(place: str, reports: int) -> tuple[bytes, int]:
    """Return what the caller wrote, nothing if there was none, and the descriptor for answers to it."""
    os.mkfifo(f"{place}.answer", 0o600)
    answer = os.open(f"{place}.answer", os.O_RDWR | os.O_CLOEXEC)
    os.mkfifo(f"{place}.ask", 0o600)
    ask = os.open(f"{place}.ask", os.O_RDWR | os.O_CLOEXEC)
    poll = select.poll()
    poll.register(ask, select.POLLIN)
    poll.register(0, select.POLLIN)
    poll.register(reports, select.POLLIN)
    events: list[tuple[int, int]] = []
    while not events and not os.path.exists(f"{place}.taken"):
        events = poll.poll(1000 * _DEAD_CALLER_CHECK_S)
    called = any(fd == ask for fd, _ in events)
    if not called and not _take(place):  # the daemon or the child is gone, or time is up, but a caller was faster
        poll.unregister(0)
        poll.unregister(reports)
        called = bool(poll.poll(1000 * _CALLER_TIMEOUT_S))
    for name in (f"{place}.ask", f"{place}.answer", f"{place}.taken"):
        os.unlink(name)
    return os.read(ask, _MAX_CALL_BYTES) if called else b"", answer


def _take(place: str) -> bool:
    """Return whether no caller had taken this process; none can do so any more."""
    try:
        os.close(os.open(f"{place}.taken", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    return True


def _serve(call: bytes, answer: int, claim_for: Callable[[int], None]) -> None:
    """Be the hook of the caller. ``claim_for`` gets its pidfd."""
    try:
        pid, operation, name = _words(call)
        caller = os.pidfd_open(pid)
        _become(caller, pid, answer)
    except (OSError, ValueError):
        os.write(answer, b"plain\n")
        return
    os.write(1, b"mine\n")
    faults.point("start")

    def do() -> None:
        libvirt.refuse_proof(name)
        claim_for(caller)

    status = entry.serve(operations.row(operation), do, lambda: None)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)  # libvirt waits until nobody has its pipes any more
    os.dup2(null, 2)
    faults.point("answering")
    os.write(1, b"%d\n" % status)


def _words(call: bytes) -> tuple[int, str, str]:
    """Return pid, operation and VM's name from what a caller wrote.

    Raise ValueError when they are not all there: a shim that an older version has installed writes its pid alone.
    """
    pid, operation, name = call.split(b" ", 2)
    if not name.endswith(b"\n"):
        raise ValueError("more than is read at once")
    return int(pid), operation.decode("ascii"), os.fsdecode(name[:-1])


def _become(caller: int, pid: int, answer: int) -> None:
    """Take the caller's stdin and stderr, and the answer's FIFO for stdout.

    Raise OSError, or ValueError when the process is not the caller, or lives in another mount namespace.
    """
    theirs = [pidfd.copy_descriptor(caller, fd) for fd in _CALLER_FDS]
    if not os.path.samestat(os.fstat(theirs[2]), os.fstat(answer)):
        raise ValueError("the pid is another process's by now")
    if not os.path.samestat(os.stat(f"/proc/{pid}/ns/mnt"), os.stat("/proc/self/ns/mnt")):
        raise ValueError("paths mean something else to it")
    os.close(theirs[2])
    for mine, fd in ((0, theirs[0]), (2, theirs[1]), (1, answer)):
        os.dup2(fd, mine)
        os.close(fd)
