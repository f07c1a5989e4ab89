"""Reads one YAML file into a small tree that knows its lines, and refuses all of YAML that a configuration needs not.

Works on the parser's events, so nothing is ever constructed: no tags, no anchors (and with them no alias bombs), one
document, few levels. Each problem is collected with its line.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from typing import Any

from vmguard.config.problems import BadConfig, Problem, quoted
from vmguard.core.locks.plan import printable

#: bytes; no configuration written by people comes near it
MAX_SIZE = 1 << 20
#: mappings and lists within each other
MAX_DEPTH = 8

_TAB = re.compile(r" *\t[ \t]*[^\s#]")


@dataclass
class Node:
    """A scalar (``text``), or a list or mapping (``items``; in a mapping keys and values alternate)."""

    kind: str
    line: int
    text: str = ""
    #: written without quotes
    plain: bool = False
    items: list[Node] = field(default_factory=list)

    def pairs(self) -> list[tuple[Node, Node]]:
        return list(zip(self.items[0::2], self.items[1::2], strict=True))

    @property
    def is_nothing(self) -> bool:
        return self.kind == "scalar" and self.plain and self.text in ("", "~", "null")


def read(path: str) -> tuple[Node | None, list[Problem]]:
    """The tree of a file, None when it holds nothing but comments, and what must not be in it. Raises BadConfig when
    there is no tree to speak of."""
    return parse(_text(_bytes(path), path), path)


def _bytes(path: str) -> bytes:
    # O_NONBLOCK: a FIFO put there must not hang the daemon.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as problem:
        raise _refused(path, f"cannot be read: {getattr(problem, 'strerror', None) or problem}") from None
    try:
        _check_trust(path, os.fstat(fd))
        with os.fdopen(fd, "rb", closefd=False) as stream:
            data = stream.read(MAX_SIZE + 1)
    except OSError as problem:
        raise _refused(path, f"cannot be read: {problem.strerror}") from None
    finally:
        os.close(fd)
    if len(data) > MAX_SIZE:
        raise _refused(path, f"is larger than {MAX_SIZE >> 20} MiB")
    return data


def _check_trust(path: str, status: os.stat_result) -> None:
    """Whoever can write this file decides whether VMs start unguarded, so only root (or who runs this) may."""
    if not stat.S_ISREG(status.st_mode):
        raise _refused(path, "is not a regular file")
    if status.st_uid not in (0, os.geteuid()):
        raise _refused(path, f"belongs to user {status.st_uid}, not to root", f"chown root: {path}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise _refused(path, f"can be written by others than its owner (mode {mode:04o})", f"chmod go-w {path}")


def _refused(path: str, text: str, hint: str = "") -> BadConfig:
    problem = Problem(path, 0, "", text)
    return BadConfig([problem], printable(hint)) if hint else BadConfig([problem])


def _text(data: bytes, path: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise BadConfig([Problem(path, line, "", f"byte 0x{data[problem.start]:02x} is not UTF-8")]) from None
    tabs = [number for number, line in enumerate(text.split("\n"), 1) if _TAB.match(line)]
    if tabs:
        raise BadConfig(Problem(path, line, "", "is indented with a tab; YAML wants spaces") for line in tabs)
    return text


def parse(text: str, path: str) -> tuple[Node | None, list[Problem]]:
    """The same for a text.

    Always with PyYAML's own parser, never libyaml's: the two do not agree on every file (a tab behind a colon), and a
    file must not be right on one host and wrong on the next.
    """
    try:
        import yaml
    except ImportError:
        raise BadConfig([Problem(path, 0, "", "cannot be read without PyYAML")], "apt install python3-yaml") from None
    builder = _Builder(path)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            builder.take(event)
        return builder.root, builder.problems
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        builder.complain(line, f"character U+{ord(text[error.position]):04X} is not allowed")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        builder.complain(mark.line + 1 if mark else 0, _in_words(error.problem or error.context or "not understood"))
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML lets "\UFFFFFFFF" and a %YAML version of 5,000 digits escape as plain ValueError.
        builder.complain(builder.line, f"is not YAML: {printable(str(error))[:200]}")
    raise BadConfig(builder.problems)


def _in_words(problem: str) -> str:
    if "'\\t'" in problem:
        return "holds a tab; YAML wants spaces"
    return f"is not YAML: {printable(problem)}"


class _Builder:
    """Makes the tree from events; keeps going after a problem as long as the tree makes sense."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._open: list[Node] = []
        self._documents = 0
        self.root: Node | None = None
        self.line = 1
        self.problems: list[Problem] = []

    def complain(self, line: int, text: str) -> None:
        self.problems.append(Problem(self._path, line, "", text))

    def take(self, event: Any) -> None:
        self.line = event.start_mark.line + 1
        kind = type(event).__name__
        if kind == "DocumentStartEvent":
            self._documents += 1
            if self._documents == 2:
                self.complain(self.line, "a second document begins here (---); only one is read")
        if getattr(event, "anchor", None) is not None:
            self.complain(self.line, f"anchors and aliases (&{printable(event.anchor)}) are not allowed")
        if getattr(event, "tag", None) is not None:
            self.complain(self.line, f"tags ({quoted(event.tag)}) are not allowed")
        if kind == "ScalarEvent":
            self._add(Node("scalar", self.line, event.value, plain=event.style is None))
        elif kind == "AliasEvent":
            self._add(Node("scalar", self.line, "", plain=True))
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            node = Node("mapping" if kind == "MappingStartEvent" else "list", self.line)
            self._add(node)
            self._open.append(node)
            if len(self._open) > MAX_DEPTH:
                raise ValueError(f"more than {MAX_DEPTH} levels")
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self._open.pop()

    def _add(self, node: Node) -> None:
        if self._open:
            self._open[-1].items.append(node)
        elif self._documents == 1 and not node.is_nothing:
            self.root = node
