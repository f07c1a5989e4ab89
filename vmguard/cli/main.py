"""``vmguard``: runs a command, and turns errors into an exit status.

COMMANDS names every command and its module, which is imported only when the command runs. A module exports
``add_arguments(parser)`` and ``run(args, out) -> int``. ``args`` holds its own arguments and the global ones:

==========  ===================  =====================================================
args.json     bool                 the command prints one JSON document with out.json()
args.config   list[str] or None    files for ``config.load``; None means /etc/vmguard
args.timeout  float or None        seconds, where the command waits for an answer
args.verbose  int                  0, 1 or 2
args.quiet    bool                 no warnings (out.warn obeys it)
==========  ===================  =====================================================

Global options may stand before or after the command. They are parsed here alone: no command may define its own ``-v``
or ``--config``. Only this file and the hooks turn errors into an exit status.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import vmguard
from vmguard.cli.arguments import HelpText, UsageError, duration
from vmguard.cli.output import Output, OutputClosed
from vmguard.config.problems import BadConfig, did_you_mean, quoted
from vmguard.core.reports.status import Status
from vmguard.errors import VmguardError


class Command(NamedTuple):
    """A command: its name, one line of help, and the module that runs it."""

    name: str
    help: str
    module: str


COMMANDS = (
    Command("check", "is a VM guarded, by which host, since when, and what to do", "vmguard.cli.check"),
    Command("status", "every VM that this host guards", "vmguard.cli.status"),
    Command("history", "what the watchdog saw and did, incident by incident", "vmguard.cli.history"),
    Command("verify-journal", "can the watchdog have written this history", "vmguard.cli.verify_journal"),
    Command("timing", "when what happens in an outage, for each mount", "vmguard.cli.timing"),
    Command("maintenance", "for a while nothing is done to VMs: all is reported only", "vmguard.cli.maintenance"),
    Command("arm", "ends a maintenance early: the watchdog acts again", "vmguard.cli.arm"),
    Command("who", "who holds a disk image, here or on another host", "vmguard.cli.who"),
    Command("adopt", "guard VMs that run already, without touching them", "vmguard.cli.adopt"),
    Command("doctor", "what is unsafe on this host, why, and how to mend it", "vmguard.cli.doctor"),
    Command("storage", "what the storage servers themselves know, and what follows", "vmguard.cli.storage.command"),
    Command("enable", "install a hypervisor's hook and prove that it is called", "vmguard.cli.enable"),
    Command("disable", "take back what enable did", "vmguard.cli.disable"),
    Command("audit", "what the guard of a Proxmox cluster misses", "vmguard.cli.audit"),
    Command("plan", "which files the start of a VM would lock, and which not", "vmguard.cli.plan"),
    Command("config", "check or show the configuration, or print an example", "vmguard.cli.config_cmd"),
    Command("hook-script", "print the hook for a hypervisor", "vmguard.cli.hook_script"),
    Command("metrics", "what Prometheus may know: printed, written or served", "vmguard.cli.metrics"),
    Command("notify", "who is told of events: send a test, see what waits", "vmguard.cli.notify"),
    Command("report", "an archive for a bug report, without secrets", "vmguard.cli.report"),
    Command("man", "print a manual page", "vmguard.cli.man"),
    Command("completion", "print the completion for bash, zsh or fish", "vmguard.cli.completion"),
    Command("daemon", "hold the locks of this host (systemd starts it)", "vmguard.cli.daemon"),
)

#: older names of commands
ALIASES = {"disarm": "maintenance"}
#: what ``vmguard`` alone does
_WITHOUT_A_COMMAND = "status"

_EXIT_STATUS = (
    "Exit status: 0 OK, 1 WARNING, 2 CRITICAL (also: wrong usage), 3 UNKNOWN (also:\n"
    "could not be done). history and timing only tell: 0 whatever they tell."
)
_GLOBALS = "Every command takes --json, --no-color, --config FILE, --timeout TIME, -q and -v\n(see: vmguard --help)."

_FLAG = re.compile(r"--(json|no-color|quiet|verbose)|-[qv]+")
_VALUED = ("--config", "--timeout")

#: exit statuses of a shell for a program that was ended by SIGINT, and by SIGPIPE
_SIGINT_STATUS = 130
_SIGPIPE_STATUS = 141


class _TextRequested(Exception):
    """A text was requested (--help, --version): print it and stop."""


class Parser(argparse.ArgumentParser):
    """Raises instead of exiting. Takes no abbreviated options, so a script does not break when an option is added."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", HelpText)
        super().__init__(**{**options, "add_help": False})
        self.add_argument("-h", "--help", action=_Help, help="show this text and exit")

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"{self.prog} --help")


class _Help(argparse._HelpAction):
    """The option --help."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise _TextRequested(parser.format_help())


def main(argv: Sequence[str] | None = None, commands: Sequence[Command] = COMMANDS) -> int:
    """Run one of the commands; return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Errors before the options are parsed must follow --json, too.
    ours, _ = _split(words)
    out = Output(as_json="--json" in ours)
    try:
        return _finish(words, out, commands)
    except OutputClosed:
        _drop_output()
        return _SIGPIPE_STATUS
    except KeyboardInterrupt:
        return _SIGINT_STATUS


def _finish(words: list[str], out: Output, commands: Sequence[Command]) -> int:
    """Run a command, and explain what went wrong."""
    try:
        status = _run(words, commands)
        out.flush()
        return status
    except VmguardError as problem:
        return _fail(out, problem.message, problem.hint, problem.exit_code)
    except OutputClosed:
        raise
    except Exception as problem:  # a bug: explained to people, with the exit status of a failure
        if _wants_traceback(words):
            traceback.print_exc()
        hint = "this is a bug, please report it with the traceback that -vv prints"
        told = VmguardError(f"unexpected {type(problem).__name__}: {problem}", hint)
        return _fail(out, told.message, told.hint, Status.UNKNOWN)


def _fail(out: Output, message: str, hint: str, exit_code: int) -> int:
    try:
        out.error(message, hint, exit_code)
        out.flush()
    except VmguardError:  # the disk is full
        _drop_output()
        if out.as_json:
            Output().error(message, hint, exit_code)  # no machine can read it now, but a person may
    return exit_code


def _wants_traceback(words: list[str]) -> bool:
    """Return whether to print tracebacks: with -vv, and always for the daemon, whose failure cannot be repeated."""
    ours, rest = _split(words)
    verbosity = sum(word.count("v") for word in ours if re.fullmatch(r"-[qv]+", word)) + ours.count("--verbose")
    return verbosity >= 2 or rest[:1] == ["daemon"]


def _run(words: list[str], commands: Sequence[Command]) -> int:
    try:
        return _run_command(words, commands)
    except _TextRequested as asked:
        Output().block(str(asked))
        return Status.OK


def _run_command(words: list[str], commands: Sequence[Command]) -> int:
    ours, rest = _split(words)
    args = top_parser().parse_args(ours)
    first, *own = rest or [_WITHOUT_A_COMMAND]
    if first in ("-h", "--help") or rest == ["help"]:
        raise _TextRequested(top_parser().format_help())
    if first == "--version":
        raise _TextRequested(f"vmguard {vmguard.__version__}")
    if first == "help":
        first, own = own[0], ["--help"]
    if first.startswith("-"):
        raise UsageError(f"unknown option {quoted(first)}{did_you_mean(first, _option_names())}", "vmguard --help")
    command = _command(first, commands)
    module = _module(command)
    command_parser(command, module).parse_args(own, namespace=args)
    out = Output(as_json=args.json, no_color=args.no_color, quiet=args.quiet)
    try:
        return int(module.run(args, out))
    except BadConfig as bad:
        if not _falls_back(args, bad, out):
            raise
        return int(module.run(args, out))


def _falls_back(args: argparse.Namespace, bad: BadConfig, out: Output) -> bool:
    """Have the command use the last good configuration, as the daemon does. Return False if there is none."""
    from vmguard.config import last_good

    if not last_good.is_usable(args.config):
        return False
    for problem in bad.problems:
        out.warn(f"the configuration is not taken, the last good one is in force: {problem}")
    args.config = [last_good.PATH]
    return True


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the global options, wherever they stand, and the other words. After ``--`` nothing is an option."""
    ours: list[str] = []
    rest: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            rest += words[at:]
            break
        taken = 2 if word in _VALUED else 1
        known = word in _VALUED or word.startswith(tuple(f"{name}=" for name in _VALUED)) or _FLAG.fullmatch(word)
        (ours if known else rest).extend(words[at : at + taken])
        at += taken
    return ours, rest


def top_parser() -> Parser:
    """Return the parser of the global options; its help lists the commands."""
    widest = max(len(command.name) for command in COMMANDS)
    commands = "\n".join(f"  {command.name:<{widest}}  {command.help}" for command in COMMANDS)
    parser = Parser(
        prog="vmguard",
        usage="vmguard [OPTION...] COMMAND [ARGUMENT...]",
        description="Guards the disks of virtual machines on NFSv4: one host at a time.",
        epilog=f"commands (vmguard COMMAND --help tells more):\n{commands}\n\n{_EXIT_STATUS}",
    )
    add_global_options(parser)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    return parser


def add_global_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that may stand before and behind the name of any command."""
    add = parser.add_argument
    add("--json", action="store_true", help="print one JSON document, also for an error")
    add("--no-color", action="store_true", help="no colours (also: NO_COLOR=1)")
    add("--config", action="append", metavar="FILE", help="read this file, not /etc/vmguard; may be repeated")
    add("--timeout", type=duration(), metavar="TIME", help="give up asking after this time (5, 500ms, 2m)")
    add("-q", "--quiet", action="store_true", help="no warnings")
    add("-v", "--verbose", action="count", default=0, help="tell more; twice: with tracebacks")


def command_parser(command: Command, module: Any) -> Parser:
    """Return the parser of one command's own arguments."""
    parser = Parser(
        prog=f"vmguard {command.name}",
        description=f"{command.help[0].upper()}{command.help[1:]}.",
        epilog=f"{_GLOBALS}\n{_EXIT_STATUS}",
    )
    module.add_arguments(parser)
    return parser


def all_parsers() -> dict[str, Parser]:
    """Return the parser of every command, for the manual."""
    return {command.name: command_parser(command, _module(command)) for command in COMMANDS}


def _option_names() -> list[str]:
    return [name for action in top_parser()._actions for name in action.option_strings]


def _command(name: str, commands: Sequence[Command]) -> Command:
    for command in commands:
        if command.name == ALIASES.get(name, name):
            return command
    names = [command.name for command in commands]
    raise UsageError(f"unknown command {quoted(name)}{did_you_mean(name, names)}", f"the commands: {', '.join(names)}")


def _module(command: Command) -> Any:
    try:
        return importlib.import_module(command.module)
    except ModuleNotFoundError as problem:
        missing = problem.name or "?"
        if missing.startswith("vmguard"):
            text = f"this installation cannot run '{command.name}': {missing} is missing"
            raise VmguardError(text, "reinstall vmguard") from problem
        text = f"'{command.name}' needs the Python package {missing}, which is not installed"
        raise VmguardError(text, f"apt install python3-{missing}, or pip install {missing}") from problem


def _drop_output() -> None:
    """Discard the output: flushing the rest at exit would fail again (with status 120)."""
    if sys.stdout is None:
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


if __name__ == "__main__":
    sys.exit(main())
