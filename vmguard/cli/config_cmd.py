"""``vmguard config check|show|example``: is the configuration valid, what is in force, what can be set."""

from __future__ import annotations

import argparse

from vmguard import config
from vmguard.cli.output import Output
from vmguard.core.reports.status import Status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    help = "say OK, or everything that is wrong with it"
    check = actions.add_parser("check", help=help, description=f"Read the configuration; {help}.")
    check.add_argument("files", nargs="*", metavar="FILE", help="check these files instead, as one configuration")
    help = "every setting in force, and where it was set"
    actions.add_parser("show", help=help, description=f"Print {help}.")
    help = "the commented file with all settings and their defaults"
    actions.add_parser("example", help=help, description=f"Print {help}.")


def run(args: argparse.Namespace, out: Output) -> int:
    actions = {"check": _check, "show": _show, "example": _example}
    return actions[args.action](args, out)


def _check(args: argparse.Namespace, out: Output) -> int:
    files: list[str] = list(args.files or args.config or [])
    problems: tuple[config.Problem, ...] = ()
    try:
        files = files or config.default_paths()
        config.load(files)
    except config.BadConfig as bad:
        problems = bad.problems
    status = Status.CRITICAL if problems else Status.OK
    if out.as_json:
        out.json({"status": status.name, "files": files, "problems": [problem.as_json() for problem in problems]})
        return status
    for problem in problems:
        out.line(str(problem))
    if problems:
        out.status(status.name, f"{len(problems)} problem{'s' * (len(problems) > 1)}; no part of this would be taken")
    else:
        out.status(status.name, ", ".join(files) or f"no file in {config.DIRECTORY}: the defaults are in force")
    return status


def _show(args: argparse.Namespace, out: Output) -> int:
    effective = config.load(args.config)
    rows = [(row, effective.value(row), effective.origin(row)) for row in config.settings()]
    if out.as_json:
        out.json(
            {
                "settings": {row.name: _as_json(row, value, origin) for row, value, origin in rows},
                "vms": {name: dict(entry) for name, entry in effective.vms.items()},
                "servers": {name: effective.server_entry(name) for name in effective.servers},
            }
        )
    else:
        own = config.vm_settings()
        vms = [
            [f"vms.{name}.{key}", own[key].kind.show(value), str(effective.origins[("vms", name, key)])]
            for name, entry in effective.vms.items()
            for key, value in entry.items()
        ]
        keys = config.server_settings()
        vms += [
            [f"servers.{name}.{key}", keys[key].kind.show(value), str(effective.origins[("servers", name, key)])]
            for name in effective.servers
            for key, value in effective.server_entry(name).items()
        ]
        out.table(
            ["setting", "value", "set in"],
            [[row.name, row.kind.show(value), origin] for row, value, origin in rows] + vms,
        )
    return Status.OK


def _as_json(row: config.Setting, value: object, origin: str) -> dict[str, object]:
    return {"value": value, "text": row.kind.show(value), "default": row.default, "set_in": origin}


def _example(args: argparse.Namespace, out: Output) -> int:
    if out.as_json:
        out.json({"example": config.example()})
    else:
        out.block(config.example())
    return Status.OK
