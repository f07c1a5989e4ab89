"""``vmguard storage doctor [MOUNT]``: would the server forget, give a lock away early, or make everybody wait."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vmguard.cli import doctor as shown
from vmguard.cli import host, places
from vmguard.cli.output import Output
from vmguard.cli.storage import asked
from vmguard.cli.storage.asked import Asked
from vmguard.cli.storage.status import health_of
from vmguard.config import Config, load
from vmguard.doctor import muted
from vmguard.doctor.finding import Finding
from vmguard.doctor.judge_server import judge_pair, judge_server, no_answer


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
    findings += _pairs(found, load(args.config))
    return shown.show(findings, args, out, health_of(found, me), muted.read())


def _pairs(found: Sequence[Asked], config: Config) -> list[Finding]:
    """Return a finding for each server that has a partner, as far as both have answered."""
    facts = {one.name: one.facts for one in found}
    findings = []
    for name, mine in facts.items():
        partner = config.servers[name].partner
        theirs = facts.get(partner)
        if mine is not None and theirs is not None:
            findings.append(judge_pair(name, mine, partner, theirs))
    return findings
