"""The completion for each shell: made by shtab from the commands' own parsers, so no option can be missing.

The names of VMs are asked for at the prompt (``vmguard completion names``). The scripts lie in the package: shtab is
needed for making them alone, and its versions differ (that of Debian 12 offers only the first word of a choice).
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import shtab

from vmguard.cli import completion, main

#: shell -> where its script lies
PLACES = {shell: Path(completion.script_of(shell)) for shell in completion.SHELLS}

_BASH = """\
# $1: the word that is completed; $2: how a name is printed
_vmguard_names() {
    local name
    while IFS= read -r name; do
        [[ $name != "$1"* ]] || printf "$2\\n" "$name"
    done < <(vmguard completion names 2> /dev/null)
}
_vmguard_vm() { _vmguard_names "$1" %q; }
# readline itself quotes what a function with "file" in its name offers: shtab says so to it
_vmguard_vm_or_file() {
    _vmguard_names "$1" %s
    compgen -f -- "$1"
}"""
_ZSH = """\
_vmguard_vm() {
    local -a names
    names=("${(@f)$(vmguard completion names 2> /dev/null)}")
    compadd -a names
}
_vmguard_vm_or_file() {
    _vmguard_vm
    _files
}"""
_FISH = """\
function _vmguard_vm
    vmguard completion names 2> /dev/null
end"""
_PREAMBLE = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}

_VM = {"bash": "_vmguard_vm", "zsh": "_vmguard_vm", "fish": "(_vmguard_vm)"}
_VM_OR_FILE = {
    "bash": "_vmguard_vm_or_file",
    "zsh": "_vmguard_vm_or_file",
    "fish": "(_vmguard_vm; __fish_complete_path (commandline -ct))",
}
#: options whose value is a VM although their metavar is another word
_VM_OPTIONS = {"--name", "--uuid", "--vmid"}


def made(shell: str) -> str:
    """Return the script of a shell."""
    parser = whole_parser()
    _mark(parser)
    text: str = shtab.complete(parser, shell=shell, preamble=_PREAMBLE[shell])
    if shell == "zsh":  # shtab ends the completion of "VM..." behind the first of them
        text = text.replace('"(*)::', '"*:')
    text = text.replace("# Condition helper: ", "# Condition: ")
    return f"{text.rstrip()}\n"


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser of everything, with the global options behind each command, too."""
    whole = main.top_parser()
    whole.epilog = None
    commands = whole.add_subparsers(metavar="COMMAND")
    for command in main.COMMANDS:
        parser = commands.add_parser(command.name, help=command.help, description=f"{command.help}.")
        importlib.import_module(command.module).add_arguments(parser)
        for each in (parser, *_below(parser)):
            main.add_global_options(each)
    about = "what a command does, and what it takes"
    choices = [command.name for command in main.COMMANDS]
    commands.add_parser("help", help=about, description=f"{about}.").add_argument("command", choices=choices)
    return whole


def _below(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Return the parsers of a command's own actions."""
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [below for action in found for below in action.choices.values()]


def _mark(parser: argparse.ArgumentParser) -> None:
    """Say of each argument what its value is: shtab reads the attribute ``complete``."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _mark(below)
        elif not action.choices and (kind := _kind(action)):
            vars(action)["complete"] = kind


def _kind(action: argparse.Action) -> object:
    """Return what shtab shall offer for an argument; None: nothing."""
    words = set(str(action.metavar).split("|"))
    if words == {"PATH", "VM"}:
        return _VM_OR_FILE
    if words == {"VM"} or _VM_OPTIONS & set(action.option_strings):
        return _VM
    return shtab.FILE if words == {"FILE"} else None
