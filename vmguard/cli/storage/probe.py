"""``vmguard storage probe``: print the program that runs on the server, to be installed there for a forced command."""

from __future__ import annotations

import argparse

from vmguard.adapters.servers import transport
from vmguard.cli.output import Output
from vmguard.core.reports.status import Status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def run(args: argparse.Namespace, out: Output) -> int:
    text = "#!/usr/bin/python3 -I\n" + transport.program_text()
    if args.json:
        out.json({"schema": 1, "program": text})
    else:
        out.block(text)
    return Status.OK
