"""What the commands print: for people at a terminal or behind a pipe, and for machines.

::

    out.status("CRITICAL", "VM 'web' runs twice")      the word coloured
    out.table(["vm", "state"], [["web", "running"]])   a column named "status" is coloured, too
    out.line("text")        a line for people; nothing with --json
    out.warn("text")        "vmguard: warning: text" on stderr; nothing with --quiet
    out.json(value)         one document, with its keys in the order given
    out.block(text)         several lines written by us (a help text, a file)
    out.document(text)      the same in UTF-8, for a format that demands it

Names of VMs and files come from outside: whatever they contain (escape sequences, newlines, rich's [markup]) is shown,
never interpreted (vmguard/core/words.py). Only ``block`` and ``document`` print their text unchanged.

Colours and framed tables need a terminal and the rich package. Without them the same words are printed as plain,
aligned text. At a terminal lines are broken between words. A file or a pipe gets whole lines, however long.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from vmguard.cli.wrapping import columns as _columns
from vmguard.cli.wrapping import wrapped
from vmguard.core.words import in_utf8, printable, printable_lines
from vmguard.errors import VmguardError

_STYLES = {"OK": "green", "WARNING": "yellow", "CRITICAL": "bold red", "UNKNOWN": "magenta"}
_STYLES |= {"WARN": _STYLES["WARNING"], "FAIL": _STYLES["CRITICAL"]}  # the doctor's words
_STATUS_COLUMN = "status"
_DEFAULT_WIDTH_COLUMNS = 80


class OutputClosed(Exception):
    """Nobody reads the output any more (``| head``)."""


class Output:
    """Where a command prints. Raises OutputClosed when the reader is gone, VmguardError when the disk is full."""

    def __init__(
        self,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        *,
        as_json: bool = False,
        no_color: bool = False,
        quiet: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._stdout = stdout if stdout is not None else sys.stdout
        self._stderr = stderr if stderr is not None else sys.stderr
        self.as_json = as_json
        self._quiet = quiet
        environ = os.environ if environ is None else environ
        self._terminal = _is_terminal(self._stdout)
        self.width = _width(self._stdout, environ) if self._terminal else _DEFAULT_WIDTH_COLUMNS
        self._stderr_width = _width(self._stderr, environ)
        plain = no_color or bool(environ.get("NO_COLOR")) or environ.get("TERM") == "dumb"
        self._rich: Any = (
            _rich_console(self._stdout, self.width) if self._terminal and not plain and not as_json else None
        )

    @property
    def is_terminal(self) -> bool:
        return self._terminal

    # -- for people -------------------------------------------------------------------------------------------------

    def line(self, text: str = "") -> None:
        if self.as_json:
            return
        for line in self._fitting(printable(text)):
            self._print(line)

    def status(self, word: str, text: str) -> None:
        """Print a coloured status (OK, WARNING, CRITICAL, UNKNOWN), and what it is about."""
        if self.as_json:
            return
        first, *later = self._fitting(f"{printable(word)}: {printable(text)}")
        if self._rich is None:
            self._print(first)
        else:
            from rich.text import Text

            head = printable(word)
            styled = Text.assemble((head, _STYLES.get(word.strip(), "")), first.removeprefix(head))
            self._render(styled, soft_wrap=True)
        for line in later:
            self._print(line)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table. Each row has one cell a column; cells are shown with str()."""
        if self.as_json:
            return
        cells = [[printable(str(cell)) for cell in row] for row in rows]
        if self._rich is not None:
            self._render(_rich_table(columns, cells))
            return
        lines = _aligned([[title.upper() for title in columns], *cells])
        if self._terminal and max(map(_columns, lines)) > self.width:
            lines = _records(columns, cells)  # the terminal would break each row at an arbitrary place
        for line in lines:
            self._print(line)

    def block(self, text: str) -> None:
        """Print a text of our own unchanged."""
        if not self.as_json:
            self._print(text.rstrip("\n"))

    def warn(self, text: str) -> None:
        if not self._quiet:
            self._complain(f"vmguard: warning: {printable(text)}")

    # -- for machines -----------------------------------------------------------------------------------------------

    def json(self, value: Any, compact: bool = False) -> None:
        """Print one document; ``compact``: on a line of its own, for a stream of them."""
        indent = None if compact else 2
        self._print(json.dumps(in_utf8(value), indent=indent, ensure_ascii=True, allow_nan=False))

    def document(self, text: str) -> None:
        """Print a text of our own whose encoding is a part of its format: UTF-8, whatever the locale says."""
        if self.as_json:
            return
        self.flush()
        stream = getattr(self._stdout, "buffer", None)
        if stream is None:
            self._print(text.rstrip("\n"))
        else:
            self._guarded(lambda: stream.write(text.encode()), stream.flush)

    # -- the end ----------------------------------------------------------------------------------------------------

    def error(self, message: str, hint: str, exit_code: int) -> None:
        """Say why the command failed: on stderr, or with --json as an object on stdout."""
        if self.as_json:
            self.json({"error": {"message": message, "hint": hint, "exit_code": exit_code}})
            return
        self._complain(f"vmguard: {printable_lines(message)}")
        if hint:
            self._complain(f"do now: {printable(hint)}")

    def flush(self) -> None:
        self._write(self._stdout, "")

    # -- inside -----------------------------------------------------------------------------------------------------

    def _fitting(self, text: str) -> list[str]:
        return wrapped(text, self.width) if self._terminal else [text]

    def _print(self, text: str) -> None:
        self._write(self._stdout, text + "\n", flush=self._terminal)

    def _complain(self, text: str) -> None:
        with contextlib.suppress(VmguardError, OutputClosed):  # the flush at the end fails again and is reported
            self.flush()  # with 2>&1 a warning must not precede the line that it is about
        if _is_terminal(self._stderr):
            text = "\n".join(part for line in text.split("\n") for part in wrapped(line, self._stderr_width))
        with contextlib.suppress(VmguardError, OutputClosed):  # the exit status still says it
            self._write(self._stderr, text + "\n")

    def _render(self, what: Any, soft_wrap: bool = False) -> None:
        with self._rich.capture() as captured:
            self._rich.print(what, soft_wrap=soft_wrap)
        self._write(self._stdout, captured.get(), flush=True)

    def _write(self, stream: TextIO | None, text: str, flush: bool = True) -> None:
        if stream is None:  # started with a closed descriptor
            return
        encoding = stream.encoding or "utf-8"
        fitting = text.encode(encoding, "backslashreplace").decode(encoding)
        self._guarded(lambda: stream.write(fitting), *([stream.flush] if flush else []))

    def _guarded(self, *steps: Callable[[], object]) -> None:
        try:
            for step in steps:
                step()
        except BrokenPipeError:
            raise OutputClosed from None
        except OSError as problem:
            raise VmguardError(f"the output cannot be written: {problem.strerror}") from problem


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _width(stream: TextIO | None, environ: Mapping[str, str]) -> int:
    """Return the width of the terminal; COLUMNS takes precedence, as with ls."""
    columns = environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno() if stream is not None else -1).columns or _DEFAULT_WIDTH_COLUMNS
    except (OSError, ValueError):
        return _DEFAULT_WIDTH_COLUMNS


def _rich_console(stream: TextIO | None, width: int) -> Any:
    """Return rich's console; None where rich is not installed."""
    try:
        from rich.console import Console
    except ImportError:
        return None
    # Everything that rich would guess from the environment is decided already; an emoji code in a name is a name.
    return Console(
        file=stream,
        width=width,
        force_terminal=True,
        color_system="standard",
        no_color=False,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )


def _rich_table(columns: Sequence[str], cells: list[list[str]]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for title in columns:
        table.add_column(Text(title.upper()), overflow="fold")
    for row in cells:
        table.add_row(
            *(
                Text(cell, style=_STYLES.get(cell, "") if title.lower() == _STATUS_COLUMN else "")
                for title, cell in zip(columns, row, strict=True)
            )
        )
    return table


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell + " " * (width - _columns(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _records(columns: Sequence[str], cells: list[list[str]]) -> list[str]:
    """Lay out each row as a small list of its own, for a table that is wider than the terminal."""
    indent = max(map(_columns, columns))
    lines = []
    for row in cells:
        pairs = zip(columns, row, strict=True)
        lines += [f"{title.upper()}{' ' * (indent - _columns(title))}  {cell}".rstrip() for title, cell in pairs]
        lines.append("")
    return lines[:-1] if lines else [" ".join(title.upper() for title in columns)]
