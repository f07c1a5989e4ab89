"""``vmguard daemon``: runs the daemon in the foreground. systemd starts it."""

from __future__ import annotations

import argparse

from vmguard.cli.output import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: everything is in the configuration."""


def run(args: argparse.Namespace, out: Output) -> int:
    from vmguard.daemon.main import main

    return main(args.config, verbose=args.verbose)
