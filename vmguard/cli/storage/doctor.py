"""``vmguard storage doctor [MOUNT]``: would the server forget, give a lock away early, or make everybody wait."""

from __future__ import annotations

import argparse

from vmguard.cli import doctor as shown
from vmguard.cli import host, places
from vmguard.cli.output import Output
from vmguard.cli.storage import asked
from vmguard.cli.storage.status import health_of
from vmguard.doctor import muted
from vmguard.doctor.judge_server import judge_server, no_answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mount", metavar="MOUNT", nargs="?", default="", help="only the server of this mount, or name")


def run(args: argparse.Namespace, out: Output) -> int:
    found, me = asked.of(args, args.mount), asked.me()
    disks = [file.inode for vm in host.ask(places.of(args)).vms for file in vm.files]
    findings = []
    for one in found:
        if one.facts is None:
            findings.append(no_answer(one.name, one.problem, one.hint))
        else:
            findings += judge_server(one.name, one.facts, disks)
    return shown.show(findings, args, out, health_of(found, me), muted.read())
