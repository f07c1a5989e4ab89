"""``vmguard report --merge REPORT...``: several hosts' histories in one picture and one table.

A REPORT is an archive of `vmguard report`, or a history.jsonl; ``HOST=FILE`` says whose it is. They may come from
anywhere: no more than a few parts are read, and of each no more than it can have. Nothing is unpacked on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vmguard.adapters.linux.clock_sync import ClockSync
from vmguard.cli import picture_files
from vmguard.cli.arguments import UsageError, span
from vmguard.cli.output import Output
from vmguard.core.pictures.chapters import Album, Source, album
from vmguard.core.pictures.entry import Entry
from vmguard.core.pictures.moments import time_of_day
from vmguard.core.pictures.page import headline, host_notes
from vmguard.core.reports.status import Status
from vmguard.core.words import in_utf8
from vmguard.errors import BadInput

#: bytes of a part, and of a whole archive when unpacked; vmguard report packs 4 MiB of each part
_MOST, _MOST_OF_ALL = 8 << 20, 256 << 20
#: below it a history never lost its older half (daemon/report/history.py)
_WHOLE = 512 << 10
_ARCHIVE = re.compile(r"vmguard-report-(.+)-\d{8}-\d{6}")
_OFFSET = re.compile(r"(.+)=([+-]?\d{1,9}(?:\.\d{1,6})?)s?")
_HISTORY, _CLOCK = "history.jsonl", "clock.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a merge to those of the command."""
    parser.add_argument(
        "--merge",
        metavar="REPORT",
        nargs="+",
        help="show several hosts' reports, or history.jsonl files, side by side; HOST=FILE says whose one is",
    )
    picture_files.add_arguments(parser)
    parser.add_argument("--vm", metavar="VM", default="", help="with --merge: only incidents of this VM")
    parser.add_argument("--last", metavar="N", type=int, default=10, help="with --merge: how many incidents (10)")
    parser.add_argument("--since", metavar="TIME", type=span, help="with --merge: only the last 30m, 2h, 3d")
    parser.add_argument(
        "--offset", metavar="HOST=SECONDS", action="append", default=[], help="with --merge: add so much to its clock"
    )


def refuse_without_merge(args: argparse.Namespace) -> None:
    """Raise UsageError for options that mean nothing without ``--merge``."""
    if args.html or args.svg or args.vm or args.since or args.offset:
        raise UsageError("--html, --svg, --vm, --since and --offset need --merge", "vmguard report --help")


def run(args: argparse.Namespace, out: Output) -> int:
    """Read, put together, draw and print."""
    if args.output:
        raise UsageError("--output is for a new report; a merge writes --html and --svg", "vmguard report --help")
    sources = _with_offsets([_read(word) for word in args.merge], args.offset)
    since = time.time() - args.since if args.since else None
    found = album(sources, in_utf8(args.vm), since, args.last)
    written = picture_files.write_album(args, found, f"At most {args.last} incidents, the newest last.")
    if args.json:
        path = os.path.abspath(written[0]) if written else ""
        out.json({"schema": 1, "file": path, "parts": {source.host: len(source.entries) for source in sources}})
        return Status.OK
    _print(found, out)
    for path in written:
        out.line(f"picture: {path}")
    return Status.OK


# -- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """What a file holds of a report."""

    host: str
    history: bytes
    clock: bytes = b""


def _read(word: str) -> Source:
    """Return one host's history. Raises BadInput for a file that holds none."""
    host, path = _split(word)
    try:
        found = _archive(path) if tarfile.is_tarfile(path) else _Found("", _plain(path))
    except (OSError, tarfile.TarError, EOFError, ValueError) as problem:
        why = getattr(problem, "strerror", None) or problem
        raise BadInput(f"'{path}' cannot be read: {why}", "name what `vmguard report` has written") from None
    entries = _entries(found.history)
    if not entries and found.history.strip():
        raise BadInput(f"'{path}' has no line of a history", "name what `vmguard report` has written, or its history")
    name = host or found.host or os.path.basename(path)
    note = _clock_note(found.clock)
    return Source(in_utf8(name), entries, clock_note=note, whole=len(found.history) < _WHOLE)


def _split(word: str) -> tuple[str, str]:
    """Return host and path; a file with a ``=`` in its name is a file."""
    host, equals, path = word.partition("=")
    return (host, path) if equals and host and "/" not in host and not os.path.exists(word) else ("", word)


def _plain(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(_MOST)


def _archive(path: str) -> _Found:
    """Return the parts of an archive that are needed. Raises OSError, TarError or ValueError."""
    host, parts, total = "", {}, 0
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            total += member.size
            if total > _MOST_OF_ALL:
                raise ValueError("it is larger than a report can be")
            folder, _, name = member.name.partition("/")
            if not member.isreg() or name not in (_HISTORY, _CLOCK):
                continue
            stream = archive.extractfile(member)
            parts[name] = stream.read(_MOST) if stream is not None else b""
            host = _host(folder)
    if _HISTORY not in parts:
        raise ValueError(f"it has no {_HISTORY}")
    return _Found(host, parts[_HISTORY], parts.get(_CLOCK, b""))


def _host(folder: str) -> str:
    """Return the host of an archive, by the name of the folder in it (``file_name`` of a host name)."""
    found = _ARCHIVE.fullmatch(folder)
    if found is None:
        return ""
    return re.sub(r"%([0-9a-f]{1,5})\.", lambda code: chr(min(int(code[1], 16), 0xFFFD)), found[1])


def _entries(history: bytes) -> list[Entry]:
    found = []
    for line in history.decode(errors="replace").split("\n"):
        value = _json(line)
        if isinstance(value, dict) and "code" in value:
            found.append(Entry.from_json(value))
    return found


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _clock_note(part: bytes) -> str:
    """Return what a host's kernel said about its clock when the report was made."""
    value = _json(part.decode(errors="replace"))
    sync = value.get("sync") if isinstance(value, dict) else None
    if not isinstance(sync, dict) or not isinstance(sync.get("max_error_s"), int | float):
        return "what its clock is worth is not known"
    return picture_files.clock_words(ClockSync(sync.get("disciplined") is True, float(sync["max_error_s"])))


def _with_offsets(sources: Sequence[Source], words: Sequence[str]) -> list[Source]:
    """Give each host a name of its own, and what is to be added to its clock."""
    named: list[Source] = []
    for source in sources:
        same = sum(other.host == source.host or other.host.startswith(f"{source.host} (") for other in named)
        named.append(replace(source, host=f"{source.host} ({same + 1})") if same else source)
    for word in words:
        found = _OFFSET.fullmatch(word)
        if found is None or found[1] not in {source.host for source in named}:
            hosts = ", ".join(source.host for source in named)
            raise UsageError(f"--offset {word!r} is not HOST=SECONDS", f"the hosts are: {hosts}; +2.5 moves one later")
        named = [replace(item, offset=float(found[2])) if item.host == found[1] else item for item in named]
    return named


# -- printing --------------------------------------------------------------------------------------------------------


def _print(found: Album, out: Output) -> None:
    """Print one table for each incident, with the host that said each line."""
    for source, host in zip(found.sources, found.hosts, strict=True):
        out.line(f"{source.host}: {'; '.join(host_notes(source, host))}")
    if not found.chapters:
        out.line("nothing is in these histories that was asked for")
    for chapter in found.chapters:
        out.line()
        out.line(headline(chapter))
        rows = [
            (time_of_day(line.second, 1), f"{line.second - chapter.origin:+.2f} s", line.host, line.entry.text)
            for line in chapter.lines
        ]
        out.table(["time", "after", "host", "what was reported"], rows)
