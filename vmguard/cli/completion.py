"""``vmguard completion bash|names``: bash's completion, made from the commands' own parsers; and the VMs it offers."""

from __future__ import annotations

import argparse
import os

from vmguard.adapters.linux import statefile
from vmguard.adapters.proxmox import host as proxmox_host
from vmguard.cli import main, places
from vmguard.cli.output import Output
from vmguard.core.reports.status import Status
from vmguard.errors import VmguardError
from vmguard.query.places import Places

#: for the cluster's files; somebody waits at a prompt
_PATIENCE_S = 1.0

_HEAD = """\
# bash completion of vmguard; made by: vmguard completion bash
_vmguard_vms() {
    local name
    COMPREPLY=()
    while IFS= read -r name; do
        [[ $name == "$1"* ]] && COMPREPLY+=("$(printf %q "$name")")
    done < <(vmguard completion names 2> /dev/null)
}

_vmguard() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= at options= words= vms= files=
    for ((at = 1; at < COMP_CWORD; at++)); do
        case ${COMP_WORDS[at]} in
            --config|--timeout) ((at++)) ;;
            -*) ;;
            *) command=${COMP_WORDS[at]}; break ;;
        esac
    done
    COMPREPLY=()
    case $before in
        --config|--storage-cfg|--domain-xml|--pve-config|--output) COMPREPLY=($(compgen -f -- "$word")); return ;;
        --name|--uuid) _vmguard_vms "$word"; return ;;
    esac
    case $command in
"""
_TAIL = """\
    esac
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "@GLOBALS@ $options" -- "$word"))
    elif [[ -n $words ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$word"))
    elif [[ -n $vms ]]; then
        _vmguard_vms "$word"
    fi
    if [[ -n $files && ${#COMPREPLY[@]} -eq 0 ]]; then
        COMPREPLY=($(compgen -f -- "$word"))
    fi
}
complete -o filenames -F _vmguard vmguard
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["bash", "names"], help="the shell's script, or this host's VMs, a line each")


def run(args: argparse.Namespace, out: Output) -> int:
    if args.what == "bash":
        text = bash()
        out.json({"schema": 1, "bash": text}) if args.json else out.block(text)
        return Status.OK
    names = known_names(places.of(args))
    if args.json:
        out.json({"schema": 1, "names": names})
    for name in names:
        if name.isprintable():  # no other can be offered, a line each
            out.line(name)
    return Status.OK


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


def bash() -> str:
    """Return the whole script."""
    parsers = main.all_parsers()
    lines = [f'        "") words="{" ".join(parsers)} help" ;;']
    for name, parser in parsers.items():
        lines.append(f"        {name}) {_case(parser)} ;;")
    options = " ".join(option for action in main.top_parser()._actions for option in action.option_strings)
    return _HEAD + "\n".join(lines) + "\n" + _TAIL.replace("@GLOBALS@", options)


def _case(parser: argparse.ArgumentParser) -> str:
    """Return what may follow a command, as assignments of the script: options, fixed words, VMs, files."""
    options = [option for action in parser._actions for option in action.option_strings]
    said = [f'options="{" ".join(options)}"']
    for action in parser._actions:
        if action.option_strings:
            continue
        if action.choices:
            said.append(f'words="{" ".join(map(str, action.choices))}"')
        if "VM" in str(action.metavar):
            said.append("vms=yes")
        if "FILE" in str(action.metavar) or "PATH" in str(action.metavar):
            said.append("files=yes")
    return "; ".join(said)
