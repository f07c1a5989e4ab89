"""``vmguard maintenance --for 30m --reason TEXT``: the watchdog only reports for a while. It ends by itself."""

from __future__ import annotations

import argparse
import datetime
import os
import pwd

from vmguard.cli import places
from vmguard.cli.arguments import duration
from vmguard.cli.output import Output
from vmguard.core.reports.local_time import after, local_time
from vmguard.core.reports.status import Status
from vmguard.query.ask_daemon import DaemonQuery


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--for", dest="seconds", required=True, metavar="TIME", type=duration(), help="30m, 2h; at most 7 d"
    )
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why; it is kept in the history")


def run(args: argparse.Namespace, out: Output) -> int:
    with DaemonQuery(places.of(args).run_dir) as daemon:
        answer = daemon.disarm(args.seconds, args.reason, who())
    if args.json:
        disarmed = answer.disarmed.json if answer.disarmed is not None else None
        out.json({"schema": 1, "disarmed": disarmed, "survives_restart": answer.survives_restart})
        return Status.WARNING
    until = local_time(after(now := datetime.datetime.now(datetime.UTC), args.seconds), now)
    out.status("WARNING", f"maintenance until {until}: no VM of this host is frozen or fenced")
    out.line("locks are held all the same; VMs that are frozen now stay so until their locks are proven")
    if not answer.survives_restart:
        out.warn("this could not be written down: a restart of the daemon will end it")
    out.line("do now: vmguard arm, once it is over")
    return Status.WARNING


def who() -> str:
    """Return the user at the terminal, for the history; behind sudo the one that called it."""
    name = os.environ.get("SUDO_USER") or ""
    if name:
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"
