"""``vmguard doctor [PATH|VM]``: what is unsafe on this host, why it matters, and the command that mends it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from vmguard.cli import host, places
from vmguard.cli.arguments import UsageError, span
from vmguard.cli.output import Output
from vmguard.cli.steps import ALREADY, DONE, WOULD, Steps
from vmguard.config import BadConfig, Config, load_or_kept
from vmguard.core.reports.health import Health
from vmguard.core.reports.status import Status, worst
from vmguard.doctor import look_host, look_mount, mend, muted
from vmguard.doctor.catalogue import CHECKS
from vmguard.doctor.examine import Wanted, by_level, examine
from vmguard.doctor.finding import Finding, Level, status_of
from vmguard.errors import BadInput, VmguardError, WireError

#: how long a storage may take to answer, unless --timeout says otherwise
_STORAGE_TIMEOUT_S = 5.0
#: how long a check is muted, unless --for says otherwise
_MUTED_S = 30 * 86400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", metavar="PATH|VM", nargs="?", default="", help="only this share or this VM's shares")
    parser.add_argument("--fix", choices=["identity"], help="give this host an NFS client id of its own")
    parser.add_argument("--dry-run", action="store_true", help="with --fix: only tell what would be done")
    parser.add_argument("--no-proof", action="store_true", help="do not ask libvirt to call the hook")
    parser.add_argument("--mute", choices=sorted(CHECKS), metavar="CHECK", help="do not warn of this check for a while")
    parser.add_argument("--for", dest="span", type=span, metavar="TIME", help="with --mute: for how long (30d)")
    parser.add_argument("--unmute", choices=sorted(CHECKS), metavar="CHECK", help="warn of this check again")


def run(args: argparse.Namespace, out: Output) -> int:
    _require_root()
    if args.span is not None and not args.mute:
        raise UsageError("--for needs --mute", "vmguard doctor --mute CHECK --for 30d")
    if args.mute or args.unmute:
        return _mute(args, out)
    if args.fix:
        return _fix(args, out)
    findings = _examine(args.config, args.subject, args.timeout, not args.no_proof)
    return show(findings, args, out, _health(args.config), muted.read())


def show(
    findings: list[Finding], args: argparse.Namespace, out: Output, found: Health, until: Mapping[str, str]
) -> int:
    """Print the findings, for people or as JSON; return the exit status.

    ``found``: the health of this host. ``until``: the muted checks.
    """
    if args.json:
        out.json(_as_json(findings, found, until))
    else:
        host.begin(found, out)
        out.line()
        _print(findings, until, out, args.verbose > 0)
        host.end(found, out)
    return worst([found.severity, _status(findings, until)])


def answer(config_paths: list[str] | None) -> dict[str, Any]:
    """Return what ``vmguard doctor --json --no-proof`` prints."""
    _require_root()
    return _as_json(_examine(config_paths, "", None, prove=False), _health(config_paths), muted.read())


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


def _as_json(findings: list[Finding], health: Health, until: Mapping[str, str]) -> dict[str, Any]:
    found = [{**finding.as_json(), "muted": until.get(finding.check, "")} for finding in _in_order(findings)]
    status = worst([health.severity, _status(findings, until)])
    return {"schema": 1, "status": status.name, "health": health.as_json(), "findings": found}


def _loud(findings: Sequence[Finding], until: Mapping[str, str]) -> list[Finding]:
    return [finding for finding in findings if finding.check not in until]


def _status(findings: Sequence[Finding], until: Mapping[str, str]) -> Status:
    loud = _loud(findings, until)
    return status_of(loud) if loud else Status.OK


def _in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Put the worst first; findings of one level stay in their order."""
    return [finding for level in (Level.FAIL, Level.WARN, Level.OK) for finding in findings if finding.level is level]


def _config(paths: list[str] | None) -> Config:
    """Return the configuration. An invalid one is a finding of its own: the last good one, or the defaults stand in."""
    try:
        return load_or_kept(paths)[0]
    except BadConfig:
        return Config()


def _print(findings: list[Finding], until: Mapping[str, str], out: Output, verbose: bool) -> None:
    """Print the problems, then in a line each what is muted, then what is fine, folded unless ``verbose``."""
    problems = [finding for finding in _in_order(findings) if finding.level is not Level.OK]
    fine = [finding for finding in findings if finding.level is Level.OK]
    for finding in _loud(problems, until):
        out.status(str(finding.level), f"{finding.subject}: {finding.text}  [{finding.check}]")
        out.line(f"      why   : {finding.why}")
        if finding.mend:
            out.line(f"      do now: {finding.mend}")
    silent = [finding for finding in problems if finding.check in until]
    for finding in silent:
        out.line(f"muted until {until[finding.check]}: {finding.subject}: {finding.text}  [{finding.check}]")
    if verbose:
        for finding in fine:
            out.status(str(finding.level), f"{finding.subject}: {finding.text}  [{finding.check}]")
            out.line(f"      why   : {finding.why}")
    elif fine:
        out.status(str(Level.OK), f"{', '.join(dict.fromkeys(finding.check for finding in fine))} (-v tells more)")
    counts = by_level(_loud(findings, until) + [finding for finding in fine if finding.check in until])
    told = f"{counts[Level.FAIL]} FAIL, {counts[Level.WARN]} WARN, {counts[Level.OK]} OK"
    out.line()
    out.line(told + (f", {len(silent)} muted" if silent else ""))


def _mute(args: argparse.Namespace, out: Output) -> int:
    check = args.mute or args.unmute
    seconds = 0.0 if not args.mute else args.span if args.span is not None else _MUTED_S
    try:
        muted.mute(check, seconds)
    except OSError as problem:
        raise VmguardError(f"{muted.PATH} cannot be written: {problem.strerror}") from problem
    until = muted.read().get(check, "")
    if args.json:
        out.json({"schema": 1, "check": check, "muted": until})
    else:
        out.line(f"{check}: muted until {until}" if until else f"{check}: not muted")
    return Status.OK


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
