"""Have the configured storage servers asked about themselves, by child processes, so that nobody waits for them.

What they say is kept in /run/vmguard/servers (vmguard/adapters/servers/cache.py). It makes waits and words exact; the
watchdog's machine knows nothing of it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable

from vmguard.adapters.linux import mounts, mountstats
from vmguard.adapters.linux.mounts import Mount
from vmguard.adapters.servers import cache
from vmguard.adapters.servers.cache import Kept
from vmguard.config.servers import Server
from vmguard.config.settings import Config
from vmguard.core.servers import outlook
from vmguard.core.words import printable
from vmguard.daemon.runtime import subprocesses
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.servers")

#: between two looks at what is due
_LOOK_S = 5.0
#: beyond the probe's own deadline
_EXTRA_S = 2.0
#: added to lease and grace, as without a server's answer (vmguard/hook/claim_wait.py)
_LEAST_MARGIN_S = 5.0


class ServerAnswers:
    """The questions to storage servers, and what they last said."""

    def __init__(
        self,
        loop: Loop,
        run_dir: str,
        config: Callable[[], Config],
        table: Callable[[], Iterable[Mount]] = mounts.mounts,
        sessions: Callable[[Iterable[str]], dict[str, list[bytes]]] = mountstats.sessions,
        start_job: Callable[..., None] = subprocesses.start,
    ) -> None:
        """``table``: this host's mounts. ``sessions``: how often their clients have set up their state.

        ``start_job``: starts a child process.
        """
        self._loop = loop
        self._table = table
        self._sessions = sessions
        self._start_job = start_job
        self._set_up: dict[str, list[bytes]] = {}
        self._run_dir = run_dir
        self._config = config
        #: name -> when it is due again, and whether it is being asked
        self._due: dict[str, float] = {}
        self._busy: set[str] = set()
        self._silent: set[str] = set()

    def start(self) -> None:
        """Ask whoever is due, from now on."""
        self._loop.call_in(_LOOK_S, self.start)
        servers = self._config().servers
        if servers and self._has_restarted():
            self._due.clear()
        for name, entry in servers.items():
            if name not in self._busy and self._loop.now() >= self._due.get(name, 0.0):
                self._ask(name, entry)

    def kept(self, mount: Mount) -> tuple[str, Kept] | None:
        """Return the server of a mount and its last answer, while that is fresh. It asks nobody."""
        server = mount.source.partition(":/")[0].strip("[]")
        for name, entry in self._config().servers.items():
            if name in (mount.point, server):
                found = cache.fresh(self._run_dir, name, 2 * entry.every + entry.timeout)
                return (name, found) if found is not None else None
        return None

    def waits(self) -> dict[str, float]:
        """Return, by mount point, for how many seconds a dead host's lock can stand in the way of a claim."""
        if not self._config().servers:
            return {}
        found = {}
        for mount in self._table():
            told = self.kept(mount) if mount.is_nfs else None
            if told is not None and (lease := told[1].times.lease) is not None:
                margin = max(_LEAST_MARGIN_S, lease / 10)
                found[mount.point] = outlook.claim_wait(lease, told[1].times, margin)
        return found

    def words(self) -> str:
        """Say which servers are in their grace periods, by their last answers, and for how long yet."""
        said = []
        for name, entry in self._config().servers.items():
            kept = cache.fresh(self._run_dir, name, 2 * entry.every + entry.timeout)
            left = kept.free_in(self._loop.now()) if kept is not None else None
            if left:
                said.append(f"{printable(name)} is in its grace period: new locks wait {left:.0f} s more at most")
        return "; ".join(said)

    def _has_restarted(self) -> bool:
        """Return whether a client has set up its state anew since the last look: its server was restarted, perhaps.

        Then the grace period is what everybody wants to know of, and the last answer is from before it.
        """
        try:
            now = self._sessions([mount.point for mount in self._table() if mount.is_nfs])
        except OSError:
            return False
        before, self._set_up = self._set_up, now
        return any(before.get(point, counts) != counts for point, counts in now.items())

    def _ask(self, name: str, entry: Server) -> None:
        self._busy.add(name)
        self._due[name] = self._loop.now() + entry.every
        job = {
            "name": name,
            "transport": str(entry.transport),
            "destination": entry.destination,
            "command": list(entry.command),
            "run_dir": self._run_dir,
            "seconds": entry.timeout,
        }
        done = functools.partial(self._done, name)
        try:
            self._start_job(self._loop, "ask_server", done, stdin=job, seconds=entry.timeout + _EXTRA_S)
        except OSError as problem:
            self._busy.discard(name)
            log.debug("%s is not asked about itself: %s", name, problem)

    def _done(self, name: str, status: int) -> None:
        self._busy.discard(name)
        if status and name not in self._silent:
            self._silent.add(name)
            log.info("%s gives no answer about itself; see: vmguard storage status", printable(name))
        elif not status and name in self._silent:
            self._silent.discard(name)
            log.info("%s answers about itself again", printable(name))
