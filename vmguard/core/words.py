"""Words of strangers: names, paths, records, arguments of processes, answers of servers. How they are shown. Pure.

Whoever owns a VM, may write on the share or may log in on a host chooses such words: escape sequences, line feeds,
bytes that are not UTF-8 (``surrogateescape``), halves of surrogate pairs. They are kept as they are, and are made
harmless once, at the edge where they leave vmguard, by that edge's rule:

===========================  ===========================================================================================
terminal, hook, journal      ``printable`` of each line (cli/output.py, hook/entry.py, adapters/linux/journal.py)
labels of metrics            ``printable`` (reports/metrics.py); the text format quotes what it must beyond that
notify.command               ``printable``, and of bounded length (daemon/report/notify_command.py)
JSON for other programs      ``in_utf8``: names are exact there, as JSON escapes by itself (--json, history, report)
our own JSON                 as it is: state files and the protocol give back what was put in
names of files               ``file_name``
===========================  ===========================================================================================

A sentence of several lines is composed of ``printable`` words, so that no name begins a line of its own. That does no
harm at the edge: what was made printable stays as it is there, also as a part of a longer text.

What is secret in the name of an image is cut by vmguard/core/sources/secrets.py, where the name enters a sentence.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: what a name of a file may hold besides letters and digits of ASCII
_IN_FILE_NAMES = "._-"


def printable(text: str) -> str:
    """Return a text made harmless for a terminal and a log, on one line: what is not printable is shown as an escape.

    That goes for control characters, separators of lines, characters that turn the direction of writing or have no
    width, and bytes that are not UTF-8.
    """
    return text if text.isprintable() else "".join(char if char.isprintable() else _escape(char) for char in text)


def printable_lines(text: str) -> str:
    """Return a text of our own, of several lines, with each of them printable."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def vm_title(name: str) -> str:
    """Return a VM as the subject of a sentence; a hostile name cannot forge a log line."""
    return f"VM '{printable(name)}'"


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def shell_word(text: str) -> str:
    """Return a text as one word of a shell's command line, for a person to paste: no name can end it."""
    if text and all(char.isascii() and (char.isalnum() or char in "@%+=:,./_-") for char in text):
        return text
    if text.isprintable():
        return "'" + text.replace("'", "'\\''") + "'"
    return "$'" + "".join(char if char.isalnum() and char.isascii() else _in_octal(char) for char in text) + "'"


def _in_octal(char: str) -> str:
    try:
        data = char.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, which no file's name can hold
        data = b"?"
    return "".join(f"\\{byte:03o}" for byte in data)


def in_utf8(value: Any) -> Any:
    """Return a value for JSON in which every text can be encoded: not all readers take half of a surrogate pair."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode(errors="backslashreplace").decode()
        return value
    if isinstance(value, dict):
        return {in_utf8(key): in_utf8(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_utf8(item) for item in value]
    return value


def file_name(text: str) -> str:
    """Return a text as the name of a file: it leads to no other folder, and no two texts become the same name."""
    return "".join(char if char.isascii() and (char.isalnum() or char in _IN_FILE_NAMES) else f"%{ord(char):x}."
                   for char in text)  # fmt: skip
