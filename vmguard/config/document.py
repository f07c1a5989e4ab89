"""Reads a YAML file into a small tree that knows its lines, and refuses every part of YAML that no configuration needs.

It works on the parser's events, so nothing is ever constructed: no tags, no anchors (hence no alias bombs), one
document, few levels. Every problem is collected with its line.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from typing import Any

from vmguard.config.problems import BadConfig, Problem, quoted
from vmguard.core.words import printable

#: no configuration written by people comes near it
MAX_BYTES = 1 << 20
#: nested mappings and lists
MAX_DEPTH = 8
#: characters of PyYAML's own message that are shown
_MAX_REASON = 200

_TAB = re.compile(r" *\t[ \t]*[^\s#]")


@dataclass
class Node:
    """A scalar (``text``), or a list or mapping (``items``, in which a mapping's keys and values alternate)."""

    kind: str
    line: int
    text: str = ""
    #: whether a scalar was written without quotes
    plain: bool = False
    items: list[Node] = field(default_factory=list)

    def pairs(self) -> list[tuple[Node, Node]]:
        """Return the keys and values of a mapping."""
        return list(zip(self.items[0::2], self.items[1::2], strict=True))

    @property
    def is_nothing(self) -> bool:
        return self.kind == "scalar" and self.plain and self.text in ("", "~", "null")


def read(path: str) -> tuple[Node | None, list[Problem]]:
    """Return the tree of a file (None when it holds comments only) and every problem in it.

    Raises BadConfig when the file cannot be read, or not parsed at all.
    """
    return parse(_text(_bytes(path), path), path)


def _bytes(path: str) -> bytes:
    # O_NONBLOCK: a FIFO in its place must not hang the daemon.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as problem:
        raise _refused(path, f"cannot be read: {getattr(problem, 'strerror', None) or problem}") from None
    try:
        _check_trust(path, os.fstat(fd))
        with os.fdopen(fd, "rb", closefd=False) as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as problem:
        raise _refused(path, f"cannot be read: {problem.strerror}") from None
    finally:
        os.close(fd)
    if len(data) > MAX_BYTES:
        raise _refused(path, f"is larger than {MAX_BYTES >> 20} MiB")
    return data


def _check_trust(path: str, status: os.stat_result) -> None:
    """Refuse a file that others than root (or the caller) may write: it decides whether VMs start unguarded."""
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
    """Parse a text; return and raise as ``read``.

    Always with PyYAML's own parser, never libyaml's: the two disagree about some files (a tab after a colon), and a
    file must not be valid on one host and invalid on another.
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
        # PyYAML raises a plain ValueError for "\UFFFFFFFF" and for a %YAML version of 5,000 digits.
        builder.complain(builder.line, f"is not YAML: {printable(str(error))[:_MAX_REASON]}")
    raise BadConfig(builder.problems)


def _in_words(problem: str) -> str:
    if "'\\t'" in problem:
        return "holds a tab; YAML wants spaces"
    return f"is not YAML: {printable(problem)}"


class _Builder:
    """Builds the tree from events; goes on after a problem as long as the tree makes sense."""

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
        """Take the next event. Raises ValueError when the nesting is too deep."""
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
