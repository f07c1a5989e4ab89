"""``vmguard arm``: ends ``vmguard disarm`` before its time is over."""

from __future__ import annotations

import argparse

from vmguard.cli import places
from vmguard.cli.disarm import who
from vmguard.cli.output import Output
from vmguard.core.reports.vm_report import Status
from vmguard.query.ask_daemon import DaemonQuery


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no arguments of its own."""


def run(args: argparse.Namespace, out: Output) -> int:
    with DaemonQuery(places.of(args).run_dir) as daemon:
        was = daemon.arm(who())
    if args.json:
        out.json({"schema": 1, "disarmed": None, "was": was.json if was is not None else None})
    elif was is None:
        out.status("OK", "armed: it was not disarmed")
    else:
        out.status("OK", f"armed again; it was disarmed since {was.since} by {was.by}: {was.reason}")
    return Status.OK
