"""``vmguard arm``: ends ``vmguard maintenance`` before its time is over."""

from __future__ import annotations

import argparse

from vmguard.cli import places
from vmguard.cli.maintenance import who
from vmguard.cli.output import Output
from vmguard.core.reports.local_time import local_time
from vmguard.core.reports.status import Status
from vmguard.query.ask_daemon import DaemonQuery


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no arguments of its own."""


def run(args: argparse.Namespace, out: Output) -> int:
    with DaemonQuery(places.of(args).run_dir) as daemon:
        was = daemon.arm(who())
    if args.json:
        out.json({"schema": 1, "disarmed": None, "was": was.json if was is not None else None})
    elif was is None:
        out.status("OK", "there was no maintenance: the watchdog acts")
    else:
        since = f"maintenance since {local_time(was.since)} by {was.by}: {was.reason}"
        out.status("OK", f"the watchdog acts again; {since}")
    return Status.OK
