"""``--html FILE`` and ``--svg FILE``: incidents as pictures, in files that only their owner can read."""

from __future__ import annotations

import argparse
import os
import stat
import time
from collections.abc import Sequence

from vmguard.adapters.linux import atomic_file
from vmguard.adapters.linux.clock_sync import ClockSync
from vmguard.core.pictures.chapters import Album, Source, album
from vmguard.core.words import printable
from vmguard.errors import BadInput, VmguardError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the two options."""
    parser.add_argument("--html", metavar="FILE", help="write a page with a picture and a table of each incident")
    parser.add_argument("--svg", metavar="FILE", help="write the picture of the newest incident")


def write(args: argparse.Namespace, sources: Sequence[Source], vm: str = "") -> list[str]:
    """Write what the options ask for; return the paths. Raises VmguardError when a file cannot be written."""
    if not (args.html or args.svg):
        return []
    since = time.time() - args.since if args.since else None
    return write_album(args, album(sources, vm, since, args.last), _about(args, vm))


def write_album(args: argparse.Namespace, found: Album, about: str) -> list[str]:
    """Write an album as ``write`` does. ``about``: what of the histories it shows, for people."""
    from vmguard.core.pictures import page

    title = f"vmguard: {', '.join(source.host for source in found.sources)}"
    written = []
    if args.html:
        _write(args.html, page.html(found, title, time.time(), about))
        written.append(args.html)
    if args.svg:
        _write(args.svg, page.svg(found, title))
        written.append(args.svg)
    return written


def clock_words(sync: ClockSync | None) -> str:
    """Say how far a host's wall clock can be trusted; empty where its kernel does not tell."""
    if sync is None:
        return ""
    if not sync.disciplined:
        return "nobody disciplines its clock (NTP): it may be off by any amount"
    return f"its clock is disciplined (NTP), and off by at most {sync.max_error_s:.2g} s"


def _about(args: argparse.Namespace, vm: str) -> str:
    said = [f"only VM '{vm}' and its storage"] if vm else []
    said += [f"only the last {args.since / 3600:.3g} hours"] if args.since else []
    return f"At most {args.last} incidents, the newest last{''.join(f'; {word}' for word in said)}."


def _write(path: str, text: str) -> None:
    """Replace a file, for its owner alone: it names VMs, hosts and paths. No device or link is ever replaced."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise BadInput(f"'{printable(path)}' is no regular file", "name a new file, or one to be replaced")
    except FileNotFoundError:
        pass
    except OSError as problem:
        raise VmguardError(f"{path} cannot be written: {problem.strerror}") from problem
    try:
        atomic_file.write(path, text.encode(), 0o600, sync=False)
    except OSError as problem:
        raise VmguardError(f"{path} cannot be written: {problem.strerror}") from problem
