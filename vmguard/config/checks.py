"""Finds settings that contradict each other although each is valid by itself."""

from __future__ import annotations

from vmguard.config.choices import Transport
from vmguard.config.problems import Problem
from vmguard.config.settings import SERVERS, Config, KeyPath, Origin, Setting, settings
from vmguard.core.words import printable

#: (longer, shorter, what would happen otherwise): the first duration must exceed the second
_LONGER: tuple[tuple[KeyPath, KeyPath, str], ...] = (
    (("hook", "timeout"), ("hook", "wait"), "the hook would be ended before its wait is over"),
    (("daemon", "start_deadline"), ("hook", "timeout"), "a claim would be doubted while its hook is still at work"),
    (("daemon", "start_deadline"), ("daemon", "poll_interval"), "a started VM would be found too late"),
)


def contradictions(config: Config) -> list[Problem]:
    """Return every combination that cannot work, with both settings, their values, and where they were set."""
    table = {row.path: row for row in settings()}
    problems = []
    for longer, shorter, otherwise in _LONGER:
        one, other = table[longer], table[shorter]
        if config.value(one) > config.value(other):
            continue
        # The defaults agree with each other, so at least one of the two was set in a file: blame that line.
        blamed = config.origins.get(longer) or config.origins.get(shorter) or Origin("defaults", 0)
        text = f"is {_said(config, one)}, but must be longer than {other.name}, which is {_said(config, other)}"
        problems.append(Problem(blamed.file, blamed.line, one.name, f"{text}; otherwise {otherwise}"))
    return [*problems, *_servers(config)]


def _servers(config: Config) -> list[Problem]:
    """Return the storage servers that cannot be asked as they stand."""
    problems = []
    for name, server in config.servers.items():
        if server.partner and (server.partner not in config.servers or server.partner == name):
            blamed = config.origins.get((SERVERS, name, "partner"), Origin("defaults", 0))
            where = f"{SERVERS}.{printable(name)}.partner"
            problems.append(Problem(blamed.file, blamed.line, where, f"is no other entry of {SERVERS}"))
        if server.transport is not Transport.COMMAND or server.command:
            continue
        blamed = config.origins.get((SERVERS, name, "transport"), Origin("defaults", 0))
        where = f"{SERVERS}.{printable(name)}.transport"
        problems.append(Problem(blamed.file, blamed.line, where, "is command, but there is no command"))
    return problems


def _said(config: Config, row: Setting) -> str:
    return f"{row.kind.show(config.value(row))} ({printable(config.origin(row))})"
