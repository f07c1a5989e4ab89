"""Turns files into a Config. The parse is the validation, and it reports every problem at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmguard.config import document
from vmguard.config.checks import contradictions
from vmguard.config.document import Node
from vmguard.config.notify import MAX_TARGETS, TARGET_NAME, TargetKey, target_keys, target_problems
from vmguard.config.problems import BadConfig, Problem, did_you_mean, quoted
from vmguard.config.settings import (
    SERVERS,
    TARGETS,
    VMS,
    Config,
    KeyPath,
    Origin,
    Setting,
    build,
    sections,
    server_settings,
    settings,
    vm_settings,
)
from vmguard.core.words import printable

DIRECTORY = "/etc/vmguard"
#: characters of a key that a problem shows
_MAX_KEY = 200


def default_paths(directory: str = DIRECTORY) -> list[str]:
    """Return vmguard.yaml and the drop-ins conf.d/*.yaml, sorted by name, as far as they exist. Raises BadConfig."""
    main, drop_ins = os.path.join(directory, "vmguard.yaml"), os.path.join(directory, "conf.d")
    try:
        names = sorted(name for name in os.listdir(drop_ins) if not name.startswith("."))
    except FileNotFoundError:
        names = []
    except OSError as problem:
        raise BadConfig([Problem(drop_ins, 0, "", f"cannot be read: {problem.strerror}")]) from None
    # A file that the admin believes to be in force, and that is never read, is worse than an error.
    ignored = [name for name in names if name.endswith(".yml")]
    if ignored:
        raise BadConfig(
            Problem(os.path.join(drop_ins, name), 0, "", "is not read, because its name does not end in .yaml")
            for name in ignored
        )
    found = [os.path.join(drop_ins, name) for name in names if name.endswith(".yaml")]
    return [main, *found] if os.path.lexists(main) else found


def load(paths: Sequence[str] | None = None) -> Config:
    """Load the configuration from files; a later one wins, key by key. By default those of /etc/vmguard.

    Raises BadConfig (a ConfigError) with every problem of every file. Without any file the defaults are in force,
    which are the strict choices.
    """
    reading = _Reading()
    for path in default_paths() if paths is None else paths:
        try:
            root, problems = document.read(path)
        except BadConfig as bad:
            reading.problems.extend(bad.problems)
            reading.hint = reading.hint or bad.hint
            continue
        reading.problems.extend(problems)
        if root is not None:
            reading.take_file(root, path)
    if not reading.problems:
        reading.check_targets()
    if reading.problems:
        raise BadConfig(reading.problems, reading.hint) if reading.hint else BadConfig(reading.problems)
    config = build(reading.values, reading.origins)
    problems = contradictions(config)
    if problems:
        raise BadConfig(problems)
    return config


def load_or_last_good(last_good: Config, paths: Sequence[str] | None = None) -> tuple[Config, tuple[Problem, ...]]:
    """Reload: return the new configuration and no problems, or the last good one and the problems of the new one."""
    try:
        return load(paths), ()
    except BadConfig as bad:
        return last_good, bad.problems


def needs_restart(old: Config, new: Config) -> list[str]:
    """Return the names of changed settings that take effect only after a restart."""
    return [row.name for row in settings() if row.restart and old.value(row) != new.value(row)]


@dataclass
class _Reading:
    """What was read of all files so far."""

    values: dict[KeyPath, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    hint: str = ""
    #: where entries with names of the admin's own begin
    _lines: dict[KeyPath, Origin] = field(default_factory=dict)
    table: dict[KeyPath, Setting] = field(default_factory=lambda: {row.path: row for row in settings()})

    def take_file(self, root: Node, path: str) -> None:
        if root.kind != "mapping":
            self._complain(path, root.line, "", f"must hold sections such as 'hook:', not {_a(root)}")
            return
        known = sections()
        for name, body in self._entries(root, path, ""):
            if name.text == VMS:
                self._take_named(body, path, (VMS,), vm_settings(), "names or uuids of VMs", "on_lost: freeze")
            elif name.text == SERVERS:
                what = "names of servers or mount points"
                self._take_named(body, path, (SERVERS,), server_settings(), what, "transport: ssh")
            elif name.text not in known:
                self._complain(path, name.line, name.text, self._unknown_section(name.text))
            elif body.kind == "mapping":
                self._take_section(name.text, body, path)
            elif not body.is_nothing:  # a section may be empty: all of its keys are commented out
                text = f"must hold lines such as '{self._keys(name.text)[0]}: VALUE', not {_a(body)}"
                self._complain(path, body.line, name.text, text)

    def _take_section(self, section: str, body: Node, path: str) -> None:
        for key, value in self._entries(body, path, section + "."):
            row = self.table.get((section, key.text))
            if (section, key.text) == TARGETS:
                self._take_named(value, path, TARGETS, target_keys(), "names of targets", "type: mail")
            elif row is None:
                self._complain(path, key.line, f"{section}.{key.text}", self._unknown_key(section, key.text))
            elif value.is_nothing:
                self._complain(path, key.line, row.name, f"has no value; it takes {row.kind.describe()}")
            elif value.kind != "scalar":
                self._complain(path, value.line, row.name, f"takes a value ({row.kind.describe()}), not {_a(value)}")
            else:
                self._take_value(row, value, path)

    def _take_named(
        self,
        body: Node,
        path: str,
        prefix: KeyPath,
        table: Mapping[str, Setting | TargetKey],
        what: str,
        example: str,
    ) -> None:
        """Take entries with names of the admin's own, whose keys are those of ``table``."""
        at = ".".join(prefix)
        if body.is_nothing:
            return
        if body.kind != "mapping":
            self._complain(path, body.line, at, f"must hold {what}, not {_a(body)}")
            return
        for name, entry in self._entries(body, path, f"{at}."):
            if entry.is_nothing:  # all of its keys are commented out
                continue
            where = f"{at}.{name.text}"
            if entry.kind != "mapping":
                self._complain(path, entry.line, where, f"must hold lines such as '{example}', not {_a(entry)}")
                continue
            self._lines.setdefault((*prefix, name.text), Origin(path, name.line))
            for key, value in self._entries(entry, path, f"{where}."):
                row = table.get(key.text)
                if row is None:
                    text = f"unknown key{did_you_mean(key.text, list(table))}"
                    self._complain(path, key.line, f"{where}.{key.text}", text)
                elif value.kind != "scalar" or value.is_nothing:
                    self._complain(path, value.line, f"{where}.{key.text}", f"takes a value ({row.kind.describe()})")
                else:
                    self._take_value(row, value, path, (*prefix, name.text, key.text))

    def check_targets(self) -> None:
        """Complain about targets that are not whole, or whose keys do not fit each other."""
        found: dict[str, dict[str, Any]] = {}
        for key, value in self.values.items():
            if key[:2] == TARGETS:
                found.setdefault(key[2], {})[key[3]] = value
        for number, (name, entry) in enumerate(found.items(), 1):
            origin = self._lines[(*TARGETS, name)]
            where = ".".join((*TARGETS, name))
            if number > MAX_TARGETS:
                self._complain(origin.file, origin.line, where, f"is one too many: {MAX_TARGETS} targets are allowed")
            try:
                TARGET_NAME.parse(name)
            except ValueError as problem:
                self._complain(origin.file, origin.line, where, str(problem))
            for key_name, text in target_problems(entry):
                line = self.origins.get((*TARGETS, name, key_name), origin)
                self._complain(line.file, line.line, f"{where}.{key_name}".rstrip("."), text)

    def _take_value(self, row: Setting | TargetKey, value: Node, path: str, key: KeyPath | None = None) -> None:
        key = key or (row.path if isinstance(row, Setting) else ())
        try:
            self.values[key] = row.kind.parse(value.text)
            self.origins[key] = Origin(path, value.line)
        except ValueError as problem:
            self._complain(path, value.line, ".".join(key), str(problem))

    def _entries(self, mapping: Node, path: str, prefix: str) -> list[tuple[Node, Node]]:
        """Return the pairs of a mapping whose keys are words, each once; complain about the others."""
        first: dict[str, int] = {}
        entries = []
        for key, value in mapping.pairs():
            if key.kind != "scalar":
                self._complain(path, key.line, prefix.rstrip("."), f"a key must be a word, not {_a(key)}")
            elif key.text in first:
                text = f"is given twice, first in line {first[key.text]}"
                self._complain(path, key.line, prefix + key.text, text)
            else:
                first[key.text] = key.line
                entries.append((key, value))
        return entries

    def _keys(self, section: str) -> list[str]:
        return [row.key for row in self.table.values() if row.section == section]

    def _unknown_section(self, name: str) -> str:
        homes = [row.section for row in self.table.values() if row.key == name]
        if homes:
            quoted_all = " or ".join(f"'{home}'" for home in homes)
            return f"is a key of section {quoted_all}, not a section"
        return f"unknown section{did_you_mean(name, sections())}"

    def _unknown_key(self, section: str, key: str) -> str:
        homes = [row.section for row in self.table.values() if row.key == key]
        if homes:
            return f"unknown key; '{printable(key)}' belongs to section '{homes[0]}'"
        return f"unknown key{did_you_mean(key, self._keys(section))}"

    def _complain(self, path: str, line: int, key: str, text: str) -> None:
        self.problems.append(Problem(path, line, key[:_MAX_KEY], text))


def _a(node: Node) -> str:
    return quoted(node.text) if node.kind == "scalar" else f"a {node.kind}"
