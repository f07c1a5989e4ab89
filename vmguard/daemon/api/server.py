"""The daemon's end of the socket: accept authorised peers, and dispatch each request to its handler."""

from __future__ import annotations

import functools
import logging
import os
import socket
from collections.abc import Mapping

from vmguard.daemon.api.sessions import Handler, Request, Session
from vmguard.daemon.claim.lifecycle import ClaimLifecycle
from vmguard.daemon.runtime.loop import Loop
from vmguard.errors import DaemonError, VmguardError, WireError
from vmguard.protocol.requests import request_of
from vmguard.protocol.wire import Connection, Message

log = logging.getLogger("vmguard.api")

#: most messages read from one connection before the others get their turn
_MESSAGES_PER_TURN = 64


class Server:
    """The server of all connections, in the loop's thread."""

    def __init__(self, loop: Loop, lifecycle: ClaimLifecycle, handlers: Mapping[str, Handler]) -> None:
        """``handlers``: one for each request of the table."""
        self._loop = loop
        self._lifecycle = lifecycle
        self._handlers = handlers

    def listen(self, listener: socket.socket) -> None:
        """Accept connections from now on."""
        listener.setblocking(False)
        self._loop.watch(listener.fileno(), functools.partial(self._accept, listener))

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, _ = listener.accept()
        except OSError:
            return
        accepted.setblocking(False)
        connection = Connection(accepted)
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
        session = Session(connection, pid, pidfd)
        self._loop.watch(connection.fileno(), functools.partial(self._readable, session))

    def _readable(self, session: Session) -> None:
        # All that waits is read in one go: a hook's last messages must be served before its death is judged.
        for _ in range(_MESSAGES_PER_TURN):
            try:
                received = session.connection.receive(self._lifecycle.close)
            except BlockingIOError:
                return
            except WireError as problem:
                session.refuse(problem)
                continue
            except OSError:
                received = None
            if received is None:
                self._close(session)
                return
            self._serve(session, *received)

    def _serve(self, session: Session, message: Message, fds: list[int]) -> None:
        """Serve one request. Whatever it holds, the peer gets an answer, and the next request is read."""
        answer: Message | None = None
        refusal: Exception | None = None
        try:
            row = request_of(message)
            answer = self._handlers[row.name](Request(session, message, fds))
        except (VmguardError, OSError) as problem:
            refusal = problem
        except Exception:
            log.exception("a request failed; please report it as a bug")
            refusal = DaemonError("the vmguard daemon failed at this request", "see: journalctl -u vmguard")
        finally:
            self._lifecycle.close(fds)
        if refusal is not None:
            session.refuse(refusal)
        elif answer is not None:
            session.answer(answer)

    def _close(self, session: Session) -> None:
        self._loop.unwatch(session.connection.fileno())
        session.connection.close()
        os.close(session.pidfd)
        if session.task >= 0:
            os.close(session.task)
        if session.files:
            self._lifecycle.discard(session.files)
