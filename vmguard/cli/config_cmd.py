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
    secrets = [] if problems else _unusable(config.load(files))
    problems = (*problems, *secrets)
    status = Status.CRITICAL if problems else Status.OK
    if out.as_json:
        out.json({"status": status.name, "files": files, "problems": [problem.as_json() for problem in problems]})
        return status
    for problem in problems:
        out.line(str(problem))
    if problems:
        so = "messages would not be delivered" if secrets else "no part of this would be taken"
        out.status(status.name, f"{len(problems)} problem{'s' * (len(problems) > 1)}; {so}")
    else:
        out.status(status.name, ", ".join(files) or f"no file in {config.DIRECTORY}: the defaults are in force")
    return status


def _unusable(effective: config.Config) -> list[config.Problem]:
    """Return the secrets of targets that cannot be had, a problem each: messages would not be delivered."""
    from vmguard.adapters.messages import secret

    found = []
    for name, entry in effective.targets.items():
        for key in config.SECRET_KEYS:
            why = secret.why_not(entry[key]) if entry.get(key) else ""
            if why:
                origin = effective.origins["notify", "targets", name, key]
                found.append(config.Problem(origin.file, origin.line, f"notify.targets.{name}.{key}", why))
    return found


def _show(args: argparse.Namespace, out: Output) -> int:
    effective = config.load(args.config)
    rows = [(row, effective.value(row), effective.origin(row)) for row in config.settings()]
    if out.as_json:
        out.json(
            {
                "settings": {row.name: _as_json(row, value, origin) for row, value, origin in rows},
                "vms": {name: dict(entry) for name, entry in effective.vms.items()},
                "targets": {name: target.as_json() for name, target in effective.notify_targets().items()},
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
        keys = config.target_keys()
        targets = [
            [f"notify.targets.{name}.{key}", keys[key].kind.show(value), str(effective.origins[place])]
            for name, entry in effective.targets.items()
            for key, value in entry.items()
            for place in [("notify", "targets", name, key)]
        ]
        asked = config.server_settings()
        vms += [
            [f"servers.{name}.{key}", asked[key].kind.show(value), str(effective.origins[("servers", name, key)])]
            for name in effective.servers
            for key, value in effective.server_entry(name).items()
        ]
        out.table(
            ["setting", "value", "set in"],
            [[row.name, row.kind.show(value), origin] for row, value, origin in rows] + targets + vms,
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
