"""``vmguard man PAGE``: prints a manual page as roff, for the packages and for ``man -l -``."""

from __future__ import annotations

import argparse

from vmguard.cli import main
from vmguard.cli.manual import pages, security
from vmguard.cli.output import Output
from vmguard.core.reports.status import Status

#: page -> section
PAGES = {"vmguard": 8, "vmguard.yaml": 5, "vmguard-hooks": 7, "vmguard-security": 7}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("page", choices=sorted(PAGES), help="which page; to read it: vmguard man PAGE | man -l -")


def run(args: argparse.Namespace, out: Output) -> int:
    text = page(args.page)
    if args.json:
        out.json({"schema": 1, "page": args.page, "section": PAGES[args.page], "roff": text})
    else:
        out.block(text)
    return Status.OK


def page(name: str) -> str:
    """Return a page as roff."""
    if name == "vmguard.yaml":
        return pages.yaml_5()
    if name == "vmguard-hooks":
        return pages.hooks_7()
    if name == "vmguard-security":
        return security.security_7(pages.DATE)
    return pages.vmguard_8(main.top_parser(), main.all_parsers())
