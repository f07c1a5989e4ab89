"""``vmguard completion SHELL|names``: the completion for a shell, and this host's VMs, which it offers."""

from __future__ import annotations

import argparse
import os

from vmguard.adapters.linux import statefile
from vmguard.adapters.proxmox import host as proxmox_host
from vmguard.cli import places
from vmguard.cli.output import Output
from vmguard.core.reports.status import Status
from vmguard.errors import VmguardError
from vmguard.query.places import Places

SHELLS = ("bash", "zsh", "fish")
_NAMES = "names"
#: for the cluster's files; somebody waits at a prompt
_PATIENCE_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=[*SHELLS, _NAMES], help="the shell's script, or this host's VMs, a line each")


def run(args: argparse.Namespace, out: Output) -> int:
    if args.what in SHELLS:
        with open(script_of(args.what), encoding="utf-8") as stream:
            text = stream.read()
        out.json({"schema": 1, args.what: text}) if args.json else out.block(text)
        return Status.OK
    names = known_names(places.of(args))
    if args.json:
        out.json({"schema": 1, "names": names})
    for name in names:
        if name.isprintable():  # no other can be offered, a line each
            out.line(name)
    return Status.OK


def script_of(shell: str) -> str:
    """Return where the completion for a shell lies: made from the commands' parsers, a test holds it to them."""
    return os.path.join(os.path.dirname(__file__), "scripts", f"vmguard.{shell}")


def known_names(where: Places) -> list[str]:
    """Return the names and ids of all VMs that this host knows: from its own files alone, so it hardly waits."""
    found = set()
    for path in _below(os.path.join(where.run_dir, "vms"), ".json"):
        vm = statefile.read(path) or {}
        found |= {str(vm[key]) for key in ("name", "uuid") if vm.get(key)}
    for folder in (where.libvirt_run_dir, where.libvirt_config_dir):
        found |= {os.path.basename(path).removesuffix(".xml") for path in _below(folder, ".xml")}
    try:
        proxmox_host.require_answer(where.proxmox_config_dir, _PATIENCE_S)
    except VmguardError:
        return sorted(found)
    return sorted(found | {vmid for vmid, _ in proxmox_host.owners(where.proxmox_config_dir)})


def _below(folder: str, suffix: str) -> list[str]:
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(suffix)]
    except OSError:
        return []
