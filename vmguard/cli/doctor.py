"""``vmguard doctor [PATH|VM]``: what is unsafe on this host, why it matters, and the command that mends it."""

from __future__ import annotations

import argparse
import dataclasses
import os

from vmguard.cli import places
from vmguard.cli.output import Output
from vmguard.cli.steps import ALREADY, DONE, WOULD, Steps
from vmguard.config import BadConfig, Config, load_or_kept
from vmguard.doctor import look_host, look_mount, mend
from vmguard.doctor.examine import Wanted, by_level, examine
from vmguard.doctor.finding import Finding, Level, status_of
from vmguard.errors import BadInput, VmguardError
from vmguard.query.places import Places

#: how long a storage may take to answer, unless --timeout says otherwise
_STORAGE_TIMEOUT_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", metavar="PATH|VM", nargs="?", default="", help="only this share or this VM's shares")
    parser.add_argument("--fix", choices=["identity"], help="give this host an NFS client id of its own")
    parser.add_argument("--dry-run", action="store_true", help="with --fix: only tell what would be done")
    parser.add_argument("--no-proof", action="store_true", help="do not ask libvirt to call the hook")


def run(args: argparse.Namespace, out: Output) -> int:
    if os.geteuid() != 0:
        raise BadInput("the doctor must see into other processes and write to the shares", "sudo vmguard doctor")
    if args.fix:
        return _fix(args, out)
    config, where = _config(args)
    seconds = _STORAGE_TIMEOUT_S if args.timeout is None else args.timeout
    where = dataclasses.replace(where, timeout=seconds)
    wanted = Wanted(args.subject, seconds, not args.no_proof, args.config)
    findings = examine(config, where, wanted)
    status = status_of(findings)
    if args.json:
        out.json({"schema": 1, "status": status.name, "findings": [finding.as_json() for finding in findings]})
        return status
    _print(findings, out, args.verbose > 0)
    return status


def _config(args: argparse.Namespace) -> tuple[Config, Places]:
    """Return the configuration and the places. An invalid one is a finding of its own: the last good one stands in."""
    try:
        config, _ = load_or_kept(args.config)
    except BadConfig:
        config = Config()
    return config, places.from_config(config, args)


def _print(findings: list[Finding], out: Output, verbose: bool) -> None:
    for subject in dict.fromkeys(finding.subject for finding in findings):
        out.line(subject)
        for finding in [finding for finding in findings if finding.subject == subject]:
            out.status(f"  {finding.level}", f"{finding.text}" + (f"  [{finding.check}]" if verbose else ""))
            if finding.level is not Level.OK or verbose:
                out.line(f"      why : {finding.why}")
            if finding.mend:
                out.line(f"      mend: {finding.mend}")
    counts = by_level(findings)
    out.line()
    out.line(f"{counts[Level.FAIL]} FAIL, {counts[Level.WARN]} WARN, {counts[Level.OK]} OK")


def _fix(args: argparse.Namespace, out: Output) -> int:
    steps = Steps("doctor --fix", "identity", args.dry_run, out)
    me = look_host.look_identity()
    chosen = mend.plan(me, look_mount.look())
    if not chosen.write and not chosen.now:
        steps.add("identity", ALREADY, chosen.text)
    elif args.dry_run:
        steps.add("identity", WOULD, chosen.text)
    else:
        try:
            unique_id = mend.carry_out(chosen, me)
        except OSError as problem:
            raise VmguardError(f"the NFS client id cannot be set: {problem}") from problem
        steps.add("identity", DONE, f"{chosen.text} ({unique_id})")
    return steps.end()
