"""``vmguard doctor [PATH|VM]``: what is unsafe on this host, why it matters, and the command that mends it."""

from __future__ import annotations

import argparse
import os
from typing import Any

from vmguard.cli import host, places
from vmguard.cli.output import Output
from vmguard.cli.steps import ALREADY, DONE, WOULD, Steps
from vmguard.config import BadConfig, Config, load_or_kept
from vmguard.core.reports.health import Health
from vmguard.core.reports.status import Status, worst
from vmguard.doctor import look_host, look_mount, mend
from vmguard.doctor.examine import Wanted, by_level, examine
from vmguard.doctor.finding import Finding, Level, status_of
from vmguard.errors import BadInput, VmguardError, WireError

#: how long a storage may take to answer, unless --timeout says otherwise
_STORAGE_TIMEOUT_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", metavar="PATH|VM", nargs="?", default="", help="only this share or this VM's shares")
    parser.add_argument("--fix", choices=["identity"], help="give this host an NFS client id of its own")
    parser.add_argument("--dry-run", action="store_true", help="with --fix: only tell what would be done")
    parser.add_argument("--no-proof", action="store_true", help="do not ask libvirt to call the hook")


def run(args: argparse.Namespace, out: Output) -> int:
    _require_root()
    if args.fix:
        return _fix(args, out)
    findings = _examine(args.config, args.subject, args.timeout, not args.no_proof)
    return show(findings, args, out, _health(args.config))


def show(findings: list[Finding], args: argparse.Namespace, out: Output, found: Health) -> int:
    """Print the findings, for people or as JSON; return the exit status. ``found``: the health of this host."""
    if args.json:
        out.json(_as_json(findings, found))
    else:
        host.begin(found, out)
        out.line()
        _print(findings, out, args.verbose > 0)
        host.end(found, out)
    return worst([found.severity, status_of(findings)])


def answer(config_paths: list[str] | None) -> dict[str, Any]:
    """Return what ``vmguard doctor --json --no-proof`` prints."""
    _require_root()
    return _as_json(_examine(config_paths, "", None, prove=False), _health(config_paths))


def _require_root() -> None:
    if os.geteuid() != 0:
        raise BadInput("the doctor must see into other processes and write to the shares", "sudo vmguard doctor")


def _examine(config_paths: list[str] | None, subject: str, timeout: float | None, prove: bool) -> list[Finding]:
    seconds = _STORAGE_TIMEOUT_S if timeout is None else timeout
    config = _config(config_paths)
    return examine(config, places.of_config(config, seconds), Wanted(subject, seconds, prove, config_paths))


def _health(config_paths: list[str] | None) -> Health:
    where = places.of_config(_config(config_paths), _STORAGE_TIMEOUT_S)
    try:
        return host.ask(where).with_other_mounts().line()
    except WireError as problem:  # a daemon of another version: the doctor has a finding about it
        return Health(Status.UNKNOWN, problem.message, problem.hint)


def _as_json(findings: list[Finding], health: Health) -> dict[str, Any]:
    found = [finding.as_json() for finding in findings]
    status = worst([health.severity, status_of(findings)])
    return {"schema": 1, "status": status.name, "health": health.as_json(), "findings": found}


def _config(paths: list[str] | None) -> Config:
    """Return the configuration. An invalid one is a finding of its own: the last good one, or the defaults stand in."""
    try:
        return load_or_kept(paths)[0]
    except BadConfig:
        return Config()


def _print(findings: list[Finding], out: Output, verbose: bool) -> None:
    for subject in dict.fromkeys(finding.subject for finding in findings):
        out.line(subject)
        for finding in [finding for finding in findings if finding.subject == subject]:
            out.status(f"  {finding.level}", f"{finding.text}" + (f"  [{finding.check}]" if verbose else ""))
            if finding.level is not Level.OK or verbose:
                out.line(f"      why: {finding.why}")
            if finding.mend:
                out.line(f"      do now: {finding.mend}")
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
