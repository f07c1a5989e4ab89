"""The daemon's end of its sockets: accept authorised peers, and dispatch each request to its handler.

No peer can keep another one from being served. Each turn reads a bounded part of what a peer has sent. There are only
so many connections that make no claim: beyond them the one that has been silent longest is closed for the next, and
whoever comes meanwhile waits in the kernel's queue (protocol/wire.py).

Who may only read comes in by a socket of his own, and that alone tells who he is. He is not trusted: what readers do to
each other reaches nobody else. They get a part of the loop's time, all of them together, one answer each at a time, and
no descriptor. One that they send is neither taken nor let fall here: its last close may wait for a storage without
end, so a thread of theirs closes their connections.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import socket
import time
from collections.abc import Mapping

from vmguard.daemon.api.sessions import Entrance, Handler, Request, Session
from vmguard.daemon.claim.lifecycle import ClaimLifecycle
from vmguard.daemon.runtime.descriptors import Descriptors
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import READERS, StorageThreads
from vmguard.errors import DaemonError, VmguardError, WireError
from vmguard.protocol.requests import Answer, RequestType, request_of
from vmguard.protocol.wire import Connection, Message

log = logging.getLogger("vmguard.api")

#: most messages read from one connection before the others get their turn
_MESSAGES_PER_TURN = 64
#: longest time for one connection that makes no claim, before the others get their turn
_SERVING_S = 0.005
_ACCEPTS_PER_TURN = 64
#: a connection is not closed for its silence before that: its first request may be on its way
_SILENT_S = 0.25
#: before the next connection is accepted when there was no room for it
_PAUSE_S = 0.02
_TELL_AGAIN_S = 60.0
#: connections of readers, those included that are being closed
_MOST_READERS = 64
#: so many of them are accepted in a turn, before a pause
_READERS_PER_TURN = 8
#: how long readers have to wait for the next answer, as a multiple of what the last one took
_REST = 4
#: of lists that readers have not fetched yet
_MOST_WAITING_CHARACTERS = 16 << 20


class Server:
    """The server of all connections, in the loop's thread."""

    def __init__(
        self,
        loop: Loop,
        lifecycle: ClaimLifecycle,
        handlers: Mapping[str, Handler],
        descriptors: Descriptors,
        threads: StorageThreads,
    ) -> None:
        """``handlers``: one for each request of the table."""
        self._loop = loop
        self._lifecycle = lifecycle
        self._handlers = handlers
        self._descriptors = descriptors
        self._threads = threads

    def listen(self, listener: socket.socket, reads_only: bool = False) -> None:
        """Accept connections from now on; those of a listener that ``reads_only`` may ask, and change nothing."""
        listener.setblocking(False)
        self._watch_for_more(Entrance(listener, reads_only))

    # -- connections ------------------------------------------------------------------------------------------------

    def _watch_for_more(self, entrance: Entrance) -> None:
        self._loop.watch(entrance.listener.fileno(), functools.partial(self._accept, entrance))

    def _accept(self, entrance: Entrance) -> None:
        for _ in range(_READERS_PER_TURN if entrance.reads_only else _ACCEPTS_PER_TURN):
            if not self._make_room(entrance):
                self._pause(entrance)
                return
            try:
                accepted, _ = entrance.listener.accept()
            except BlockingIOError:
                return
            except OSError as problem:
                self._tell_of_waiting(entrance, f": {problem.strerror}")
                self._pause(entrance)
                return
            self._begin(Connection(accepted), entrance)
        if entrance.reads_only:
            self._pause(entrance)

    def _make_room(self, entrance: Entrance) -> bool:
        """Return whether one more connection can be accepted; close the one that has been silent longest for it."""
        most = self._descriptors.most_connections()
        if len(entrance.others) + entrance.closing < (min(most, _MOST_READERS) if entrance.reads_only else most):
            return True
        now = self._loop.now()
        longest = next((one for one in entrance.others.values() if entrance.is_silent(one, now - _SILENT_S)), None)
        if longest is None:
            self._tell_of_waiting(entrance, "")
            return False
        self._close(longest, entrance)
        return not entrance.reads_only  # a reader's place is free when its connection is closed

    def _tell_of_waiting(self, entrance: Entrance, why: str) -> None:
        if self._loop.now() >= entrance.told + _TELL_AGAIN_S:
            entrance.told = self._loop.now()
            who = "new readers" if entrance.reads_only else "new connections"
            log.warning("%s have to wait%s; %s", who, why, self._descriptors.words)

    def _pause(self, entrance: Entrance) -> None:
        """Leave new connections in the kernel's queue for a moment."""
        self._loop.unwatch(entrance.listener.fileno())
        self._loop.call_in(_PAUSE_S, functools.partial(self._watch_for_more, entrance))

    def _begin(self, connection: Connection, entrance: Entrance) -> None:
        connection.settimeout(0.0)
        pid, uid, _ = connection.peer()
        pidfd = -1 if entrance.reads_only else self._pidfd_of_peer(pid, uid)
        if pidfd < 0 and not entrance.reads_only:
            connection.close()
            return
        session = Session(connection, pid, pidfd, heard=self._loop.now(), reads_only=entrance.reads_only)
        entrance.others[connection.fileno()] = session
        self._watch_session(session, entrance)

    def _watch_session(self, session: Session, entrance: Entrance) -> None:
        serve = self._reader_asks if entrance.reads_only else self._readable
        self._loop.watch(session.connection.fileno(), functools.partial(serve, session, entrance))

    def _pidfd_of_peer(self, pid: int, uid: int) -> int:
        """Return a pidfd of a peer who may command us; -1 for anybody else, and if it is gone already."""
        if uid not in (0, os.geteuid()):
            log.warning("a process of user %d (pid %d) was turned away", uid, pid)
            return -1
        try:
            return os.pidfd_open(pid)
        except OSError:
            return -1

    def _heard_of(self, session: Session, entrance: Entrance) -> None:
        """Note that a connection is in use."""
        session.heard = self._loop.now()
        entrance.others.pop(session.connection.fileno(), None)
        if not session.stays:
            entrance.others[session.connection.fileno()] = session

    def _close(self, session: Session, entrance: Entrance) -> None:
        entrance.others.pop(session.connection.fileno(), None)
        self._loop.unwatch(session.connection.fileno())
        if session.reads_only:
            self._close_in_a_thread(session, entrance)
            return
        session.connection.close()
        os.close(session.pidfd)
        if session.task >= 0:
            os.close(session.task)
        if session.files:
            self._lifecycle.discard(session.files)

    def _close_in_a_thread(self, session: Session, entrance: Entrance) -> None:
        """Close a reader's connection where it may take for ever: descriptors that he has sent are closed with it."""
        entrance.closing += 1

        def closed(_: object) -> None:
            entrance.closing -= 1

        self._threads.run(READERS, "close a reader's connection", session.connection.close, closed)

    # -- requests ---------------------------------------------------------------------------------------------------

    def _readable(self, session: Session, entrance: Entrance) -> None:
        # All that waits is read in one go: a hook's last messages must be served before its death is judged.
        end = self._loop.now() + _SERVING_S
        for _ in range(_MESSAGES_PER_TURN):
            try:
                received = session.connection.receive(self._lifecycle.close)
            except BlockingIOError:
                return
            except WireError as problem:
                session.refuse(problem)
                continue
            except (OSError, MemoryError):  # what cannot be received would keep the loop busy
                received = None
            if received is None:
                self._close(session, entrance)
                return
            self._serve(session, *received, entrance)
            self._heard_of(session, entrance)
            if not session.stays and self._loop.now() >= end:
                return

    def _reader_asks(self, session: Session, entrance: Entrance) -> None:
        """Have a reader wait for his turn."""
        self._loop.unwatch(session.connection.fileno())
        entrance.queue.append(session)
        if len(entrance.queue) == 1:
            self._loop.call_at(entrance.rests_until, functools.partial(self._serve_next, entrance))

    def _serve_next(self, entrance: Entrance) -> None:
        """Serve one request of the reader whose turn it is."""
        if not entrance.queue:  # he was closed meanwhile
            return
        session = entrance.queue.popleft()
        began = time.thread_time()
        self._watch_session(session, entrance)
        if not self._serve_reader(session, entrance):
            self._close(session, entrance)
        took = time.thread_time() - began  # not by the clock: on a busy host the time of others would count, too
        entrance.rests_until = self._loop.now() + _REST * took
        if entrance.queue:
            self._loop.call_at(entrance.rests_until, functools.partial(self._serve_next, entrance))

    def _serve_reader(self, session: Session, entrance: Entrance) -> bool:
        """Read and serve one request; return whether the reader may stay."""
        try:
            received = None if session.connection.brings_descriptors() else session.connection.receive()
        except BlockingIOError:
            return True
        except WireError as problem:
            session.refuse(problem)
            return not session.gone
        except (OSError, MemoryError):
            return False
        if received is None:
            return False
        self._serve(session, *received, entrance)
        self._heard_of(session, entrance)
        return not session.gone

    def _serve(self, session: Session, message: Message, fds: list[int], entrance: Entrance) -> None:
        """Serve one request. Whatever it holds, the peer gets an answer, and the next request is read."""
        answer: Message | None = None
        refusal: Exception | None = None
        try:
            row = request_of(message)
            if entrance.reads_only:
                _check_reading(row, entrance)
            session.owed += row.answer is not Answer.NONE
            answer = self._handlers[row.name](Request(session, message, fds))
        except (VmguardError, OSError) as problem:
            refusal = self._explain(problem)
        except Exception:
            log.exception("a request failed; please report it as a bug")
            refusal = DaemonError("the vmguard daemon failed at this request", "see: journalctl -u vmguard")
        finally:
            self._lifecycle.close(fds)
        if refusal is not None:
            session.refuse(refusal)
        elif answer is not None:
            session.answer(answer)

    def _explain(self, problem: Exception) -> Exception:
        """Return what to tell a peer of an exception: of a lack of descriptors whose it is, and what helps."""
        if isinstance(problem, OSError) and problem.errno == errno.EMFILE:
            return DaemonError(f"{self._descriptors.words}, and needs one more", "raise LimitNOFILE of vmguard's unit")
        return problem


def _check_reading(row: RequestType, entrance: Entrance) -> None:
    """Raise DaemonError unless a reader may ask for this, and for it now."""
    if not row.reads:
        raise DaemonError(f"{row.name}: who may only read what this host guards changes nothing", "run it as root")
    if row.answer is Answer.LIST and entrance.waiting > _MOST_WAITING_CHARACTERS:
        raise DaemonError("too many readers fetch lists at this moment", "ask again")
