"""The entries of ``servers:`` - how each storage server itself can be asked (vmguard/config/settings.py)."""

# ruff: noqa: RUF009 - setting() is dataclasses.field() with that table's metadata

from __future__ import annotations

from dataclasses import dataclass

from vmguard.config.choices import ServerKind, Transport
from vmguard.config.row import setting
from vmguard.config.values import Choice, Duration, Name, Words


@dataclass(frozen=True)
class Server:
    """One storage server. The key of its entry is the name before the colon in the mount's source, or a mount point."""

    kind: ServerKind = setting(
        Choice(ServerKind.KNFSD),
        ServerKind.KNFSD,
        "What serves NFS there. knfsd is the Linux kernel's own server.",
    )
    transport: Transport = setting(
        Choice(Transport.SSH, Transport.LOCAL, Transport.COMMAND),
        Transport.SSH,
        "How the probe program gets there. ssh: by the system's own ssh, without any question (BatchMode); local: this "
        "host is the server; command: by the command below.",
    )
    destination: str = setting(
        Name("a destination of ssh such as root@nas", r"(?!-)[A-Za-z0-9_.@:%+-]{1,255}", may_be_empty=True),
        "",
        'Whom ssh asks: [USER@]HOST, or a Host of /root/.ssh/config. "" means the entry\'s own name.',
    )
    command: tuple[str, ...] = setting(
        Words(),
        (),
        "With transport: command, what is started to ask: it gets the probe program on its standard input, as in "
        "'docker exec -i nas python3 -I -'. Words as in a shell, but no shell runs them. The words of the request "
        "follow.",
    )
    release_destination: str = setting(
        Name("a destination of ssh such as root@nas", r"(?!-)[A-Za-z0-9_.@:%+-]{1,255}", may_be_empty=True),
        "",
        "With transport: ssh, whom ssh asks for vmguard storage release: another account than the one that reads. "
        '"" means that nothing can be released from here.',
    )
    release_command: tuple[str, ...] = setting(
        Words(),
        (),
        "With transport: command or local, what is started for vmguard storage release, as for command. "
        '"" means that nothing can be released from here.',
    )
    partner: str = setting(
        Name("the name of another entry", r"[^\s]{1,255}", may_be_empty=True),
        "",
        "The entry of the other node of a fail-over pair: vmguard storage doctor compares what must be equal on both "
        '(scope, fsid of each export). "" means that it stands alone.',
    )
    timeout: float = setting(Duration(1, 60), 5.0, "After this time the probe is ended, and the answer is none.")
    every: float = setting(
        Duration(5, 3600),
        30.0,
        "How often the daemon asks, so that hooks and commands know lease and grace without asking. What is older than "
        "two such spans is not used any more.",
    )
