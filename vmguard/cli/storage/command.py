"""``vmguard storage ACTION``: what the storage servers themselves know, and what follows from it."""

from __future__ import annotations

import argparse
from types import ModuleType

from vmguard.cli.output import Output
from vmguard.cli.storage import doctor, explain, locks, plan, probe, release, status, watch

#: action -> its module, and one line of help
ACTIONS = {
    "status": (status, "is the server up, in grace, for how long yet, who has not come back, is this host on record"),
    "locks": (locks, "the locks as the servers have them, by the holder's name"),
    "doctor": (doctor, "would the server forget its clients, give a lock away early, make everybody wait"),
    "plan": (plan, "what a reboot of the server would do to each VM here, and when"),
    "watch": (watch, "a maintenance as it goes, and afterwards for how long each VM stood still"),
    "explain": (explain, "why were locks lost: the server's own log and record"),
    "release": (release, "release a dead host's state on the server before its time, with proof"),
    "probe": (probe, "print the program that answers on the server, for an ssh key that may do nothing else"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (module, help) in ACTIONS.items():
        below = actions.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        module.add_arguments(below)


def run(args: argparse.Namespace, out: Output) -> int:
    module: ModuleType = ACTIONS[args.action][0]
    return int(module.run(args, out))
