"""Ask the configured storage servers, all at once; and which of this host's mounts each one serves."""

from __future__ import annotations

import argparse
import concurrent.futures
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vmguard.adapters.linux import host_identity, mounts
from vmguard.adapters.linux.mounts import Mount
from vmguard.adapters.servers.knfsd import KnfsdServer
from vmguard.adapters.servers.port import StorageServer
from vmguard.adapters.servers.transport import way
from vmguard.adapters.storage import nfs_client_id
from vmguard.config import Config, Server, Transport, load
from vmguard.core.servers import names
from vmguard.core.servers.facts import ServerFacts
from vmguard.core.words import printable
from vmguard.errors import BadInput, ServerError

_HOW = "servers: in /etc/vmguard/vmguard.yaml says how each server is asked: man vmguard.yaml"


@dataclass(frozen=True)
class Asked:
    """One configured server, its mounts on this host, and its answer; ``problem``: why there is none."""

    name: str
    mounts: Sequence[Mount]
    server: StorageServer
    facts: ServerFacts | None = None
    problem: str = ""
    hint: str = ""

    @property
    def points(self) -> list[str]:
        return [mount.point for mount in self.mounts]


@dataclass(frozen=True)
class Me:
    """This host as servers know it."""

    host: str
    unique_id: str

    def is_named(self, client: str) -> bool:
        return names.is_of(client, self.unique_id, self.host)

    def on_record(self, facts: ServerFacts) -> bool | None:
        """Return whether this host could reclaim after a reboot; None: not known."""
        memory = facts.memory
        if memory is None or memory.problem or memory.epoch is None:
            return None
        return any(map(self.is_named, [*memory.recorded, *facts.grace.missing]))


def me() -> Me:
    """Return this host by its name and the NFS client id in force."""
    return Me(host_identity.host_name(), nfs_client_id.in_force() or "")


def make(name: str, entry: Server, run_dir: str, timeout: float | None = None) -> StorageServer:
    """Return the adapter of a configured server."""
    transport, folder = str(entry.transport), run_dir if os.geteuid() == 0 else ""
    reads = way(name, transport, entry.destination, entry.command, folder)
    releases = None
    if entry.transport is Transport.SSH and entry.release_destination:
        releases = way(name, transport, entry.release_destination, (), folder)
    elif entry.transport is not Transport.SSH and entry.release_command:
        releases = way(name, "command", "", entry.release_command, folder)
    return KnfsdServer(name, reads, releases, entry.timeout if timeout is None else timeout)


def serves(mount: Mount, name: str) -> bool:
    """Return whether an entry of this name is about a mount: by its point, or by the server in its source."""
    server = mount.source.partition(":/")[0].strip("[]")
    return mount.is_nfs and name in (mount.point, server)


def configured(config: Config, wanted: str = "", timeout: float | None = None) -> list[Asked]:
    """Return the configured servers, or the one of a mount or a name. Raises BadInput when there is none."""
    if not config.servers:
        raise BadInput("no storage server is configured, so none can be asked about itself", _HOW)
    table = list(mounts.mounts())
    found = [
        Asked(
            name,
            [mount for mount in table if serves(mount, name)],
            make(name, entry, config.daemon.run_dir, timeout),
        )
        for name, entry in config.servers.items()
    ]
    if not wanted:
        return found
    mount = mounts.mount_of_path(os.path.abspath(wanted), table) if wanted.startswith("/") else None
    chosen = [item for item in found if item.name == wanted or (mount is not None and mount in item.mounts)]
    if not chosen:
        listed = ", ".join(printable(name) for name in config.servers)
        raise BadInput(f"no server is configured for {printable(wanted)}; configured: {listed}", _HOW)
    return chosen


def ask(found: Sequence[Asked]) -> list[Asked]:
    """Ask each server, at the same time. One that does not answer has a problem instead of facts."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=max(1, min(16, len(found)))) as pool:
        return list(pool.map(_ask, found))


def _ask(one: Asked) -> Asked:
    try:
        return Asked(one.name, one.mounts, one.server, one.server.facts())
    except ServerError as problem:
        return Asked(one.name, one.mounts, one.server, None, problem.message, problem.hint)


def of(args: argparse.Namespace, wanted: str = "", chosen: Callable[[Asked], bool] = lambda _: True) -> list[Asked]:
    """Ask the servers that a command is about. Raises BadInput, ConfigError."""
    found = configured(load(args.config), wanted, args.timeout)
    return ask([one for one in found if chosen(one)])
