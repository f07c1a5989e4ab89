"""``vmguard daemon``: holds the locks, follows the processes. Started by systemd; in the foreground otherwise."""

from __future__ import annotations

import argparse

from vmguard.cli.output import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own: everything is in the configuration."""


def run(args: argparse.Namespace, out: Output) -> int:
    from vmguard.daemon.main import main

    return main(args.config, verbose=args.verbose)
