"""The daemon's end of the socket: accept authorised peers, and dispatch each request to its handler.

No peer can keep another one from being served. Each turn reads a bounded part of what a peer has sent. There are only
so many connections that make no claim: beyond them the one that has been silent longest is closed for the next, and
whoever comes meanwhile waits in the kernel's queue (protocol/wire.py).
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import socket
from collections.abc import Mapping

from vmguard.daemon.api.sessions import Handler, Request, Session
from vmguard.daemon.claim.lifecycle import ClaimLifecycle
from vmguard.daemon.runtime.descriptors import Descriptors
from vmguard.daemon.runtime.loop import Loop
from vmguard.errors import DaemonError, VmguardError, WireError
from vmguard.protocol.requests import Answer, request_of
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


class Server:
    """The server of all connections, in the loop's thread."""

    def __init__(
        self, loop: Loop, lifecycle: ClaimLifecycle, handlers: Mapping[str, Handler], descriptors: Descriptors
    ) -> None:
        """``handlers``: one for each request of the table."""
        self._loop = loop
        self._lifecycle = lifecycle
        self._handlers = handlers
        self._descriptors = descriptors
        #: by descriptor: connections that make no claim, the one that has been silent longest first
        self._others: dict[int, Session] = {}
        #: when it was last logged that connections have to wait
        self._told = -_TELL_AGAIN_S

    def listen(self, listener: socket.socket) -> None:
        """Accept connections from now on."""
        listener.setblocking(False)
        self._loop.watch(listener.fileno(), functools.partial(self._accept, listener))

    # -- connections ------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            if not self._make_room():
                self._pause(listener, "")
                return
            try:
                accepted, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as problem:
                self._pause(listener, f": {problem.strerror}")
                return
            self._begin(Connection(accepted))

    def _make_room(self) -> bool:
        """Return whether one more connection can be accepted; close the one that has been silent longest for it."""
        if len(self._others) < self._descriptors.most_connections():
            return True
        now = self._loop.now()
        silent = (one for one in self._others.values() if not one.owed and now - one.heard >= _SILENT_S)
        longest = next(silent, None)
        if longest is None:
            return False
        self._close(longest)
        return True

    def _pause(self, listener: socket.socket, why: str) -> None:
        """Leave new connections in the kernel's queue for a moment."""
        if self._loop.now() >= self._told + _TELL_AGAIN_S:
            self._told = self._loop.now()
            log.warning("new connections have to wait%s; %s", why, self._descriptors.words)
        self._loop.unwatch(listener.fileno())
        self._loop.call_in(_PAUSE_S, functools.partial(self.listen, listener))

    def _begin(self, connection: Connection) -> None:
        connection.settimeout(0.0)
        pid, uid, _ = connection.peer()
        if uid not in (0, os.geteuid()):
            log.warning("a process of user %d (pid %d) was turned away", uid, pid)
            connection.close()
            return
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            connection.close()
            return
        session = Session(connection, pid, pidfd, heard=self._loop.now())
        self._others[connection.fileno()] = session
        self._loop.watch(connection.fileno(), functools.partial(self._readable, session))

    def _heard_of(self, session: Session) -> None:
        """Note that a connection is in use."""
        session.heard = self._loop.now()
        self._others.pop(session.connection.fileno(), None)
        if not session.stays:
            self._others[session.connection.fileno()] = session

    def _close(self, session: Session) -> None:
        self._others.pop(session.connection.fileno(), None)
        self._loop.unwatch(session.connection.fileno())
        session.connection.close()
        os.close(session.pidfd)
        if session.task >= 0:
            os.close(session.task)
        if session.files:
            self._lifecycle.discard(session.files)

    # -- requests ---------------------------------------------------------------------------------------------------

    def _readable(self, session: Session) -> None:
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
                self._close(session)
                return
            self._serve(session, *received)
            self._heard_of(session)
            if not session.stays and self._loop.now() >= end:
                return

    def _serve(self, session: Session, message: Message, fds: list[int]) -> None:
        """Serve one request. Whatever it holds, the peer gets an answer, and the next request is read."""
        answer: Message | None = None
        refusal: Exception | None = None
        try:
            row = request_of(message)
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
