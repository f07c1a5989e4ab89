"""``vmguard notify watch``: what the daemon does for messages, done in its place while it is down, and that it is down.

``vmguard-notify.timer`` runs it. ``OnFailure=`` of vmguard.service would never fire: systemd restarts the daemon
without end (``Restart=always``, no start limit), and a unit that is restarted does not fail (systemd.unit(5)).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from vmguard.adapters.linux import clock, host_identity
from vmguard.adapters.linux.bounded_child import Child
from vmguard.adapters.messages import sending
from vmguard.adapters.messages.delivery import deliver
from vmguard.adapters.messages.queue import Queue
from vmguard.config import Config
from vmguard.core.notices.event import Event, make
from vmguard.core.notices.wanted import Wish, choose
from vmguard.core.watchdog.events import Level
from vmguard.core.words import shell_word
from vmguard.errors import DaemonError, VmguardError
from vmguard.protocol.client import Daemon
from vmguard.query import running

#: for which a daemon is awaited that is just being restarted, and for which it may keep silent
PATIENCE_S = 20.0
_ANSWER_S = 3.0
_POLL_S = 1.0
_GRACE_S = 3.0


def daemon_problem(run_dir: str, patience: float) -> str:
    """Return why the daemon does not answer, also after some time; empty when it does."""
    end = clock.boottime() + patience
    while True:
        try:
            running.require(run_dir)  # to ask the socket would start a daemon that was stopped
            with Daemon(run_dir, _ANSWER_S) as daemon:
                daemon.ping()
            return ""
        except DaemonError as problem:
            if clock.boottime() >= end:
                return problem.message
        time.sleep(_POLL_S)


def watch(config: Config, patience: float) -> str:
    """Tell the targets that the daemon is down, once, and send what waits; return why it is; empty when it is not."""
    problem = daemon_problem(config.daemon.run_dir, patience)
    if problem:
        for queue, seconds, child in _queue_and_send(config, _down(problem)):
            try:
                child.result()
            except VmguardError:
                with suppress(OSError):  # another process sends to it just now
                    queue.give_up(seconds)
    return problem


def _down(problem: str) -> Event:
    text = f"the vmguard daemon is down, nobody watches the leases: {problem}"
    return make(clock.wall(), "daemon.down", Level.ERROR, text, {}, host_identity.boot_id())


def _queue_and_send(config: Config, event: Event) -> list[tuple[Queue, float, Child]]:
    host, begun = host_identity.host_name(), []
    for name, target in config.notify_targets().items():
        queue, wanted = Queue(config.notify.queue_dir, name), target.as_json()
        chosen, incidents = choose(name, Wish(target.level, target.events), [event], queue.opened().incidents)
        if any(found.opens for found in chosen):  # it was not told yet
            try:
                queue.add(chosen, incidents)
            except OSError as problem:
                where = config.notify.queue_dir
                raise VmguardError(
                    f"nothing can wait in {where}: {problem.strerror}", f"df {shell_word(where)}"
                ) from None
        if queue.waiting():
            child = Child(_sender(queue, wanted, host), target.timeout + _GRACE_S, f"a message was sent to {name}")
            begun.append((queue, target.timeout, child))
    return begun


def _sender(queue: Queue, wanted: dict[str, Any], host: str) -> Callable[[], None]:
    def send() -> None:
        sending.confine()
        deliver(queue, wanted, host)

    return send
