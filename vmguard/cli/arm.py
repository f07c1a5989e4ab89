"""``vmguard arm``: the watchdog acts again, before the time of ``vmguard disarm`` is over."""

from __future__ import annotations

import argparse

from vmguard.cli import places
from vmguard.cli.disarm import who
from vmguard.cli.output import Output
from vmguard.core.reports.vm_report import Status
from vmguard.protocol.client import Daemon


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def run(args: argparse.Namespace, out: Output) -> int:
    with Daemon(places.of(args).run_dir) as daemon:
        was = daemon.arm(who())["was"]
    if args.json:
        out.json({"schema": 1, "disarmed": None, "was": was})
    elif was is None:
        out.status("OK", "armed: it was not disarmed")
    else:
        out.status("OK", f"armed again; it was disarmed since {was['since']} by {was['by']}: {was['reason']}")
    return Status.OK
