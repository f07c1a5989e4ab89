"""``vmguard adopt``: guards VMs that run already, without touching them: they are neither stopped nor written to."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from vmguard.cli import places
from vmguard.cli.arguments import UsageError
from vmguard.cli.output import Output
from vmguard.cli.steps import put_to_use
from vmguard.core.locks.guard_states import GuardState
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.reports.status import Status, worst
from vmguard.core.words import shell_word
from vmguard.errors import VmguardError
from vmguard.query import ask_daemon, reports
from vmguard.query.answers import AdoptAnswer, FileAnswer
from vmguard.query.ask_daemon import AdoptRequest
from vmguard.query.places import Places
from vmguard.query.wording import guard_words

_STATUS = {
    "adopted": Status.OK,
    "guarded": Status.OK,
    "nothing": Status.OK,
    "would-adopt": Status.OK,
    "stranger": Status.WARNING,
    "gone": Status.UNKNOWN,
    "pending": Status.UNKNOWN,
    "conflict": Status.CRITICAL,
}
_SENTENCES = {
    "adopted": "was unguarded, is guarded now",
    "guarded": "was guarded already",
    "nothing": "has no file open that could be guarded",
    "would-adopt": "is unguarded; nothing was done (dry run)",
    "pending": "the storage has not answered yet; the daemon goes on trying",
}


@dataclass(frozen=True)
class _Result:
    """What became of one VM. ``rivals``: for each of its files who is in the way; None when nobody was asked."""

    answer: AdoptAnswer
    rivals: Sequence[str | None]

    @property
    def status(self) -> Status:
        status = _STATUS[self.answer.result]
        if any(self.rivals):
            return Status.CRITICAL
        weaker = any(file.guard not in (GuardState.PINNED, GuardState.PENDING) for file in self.answer.vm.files)
        return Status.WARNING if weaker and status is Status.OK else status

    def as_json(self) -> dict[str, object]:
        vm = self.answer.vm
        files = [
            {**file.json, "rival": rival} if rival is not None else file.json
            for file, rival in zip(vm.files, self.rivals, strict=True)
        ]
        return {**vm.json, "files": files, "status": self.status.name}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vms", metavar="VM", nargs="*", help="a VM's name or uuid; not an ordinary user's VM")
    parser.add_argument(
        "--all", action="store_true", help="every VM that runs on this host, but for those of ordinary users"
    )
    parser.add_argument("--pid", type=int, default=0, help="a QEMU process, whoever started it")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be done, and who is in the way")


def run(args: argparse.Namespace, out: Output) -> int:
    if not (args.vms or args.all or args.pid):
        raise UsageError("no VM given", "vmguard adopt --all --dry-run shows what runs unguarded on this host")
    where = places.of(args)
    put_to_use(where.run_dir, args.dry_run)
    request = AdoptRequest(tuple(args.vms), args.all, args.pid, args.dry_run, where.timeout)
    answers = ask_daemon.adopt(where.run_dir, request)
    results = [_Result(answer, [_rival(answer, file, where) for file in answer.vm.files]) for answer in answers]
    status = worst([result.status for result in results]) if results else Status.OK
    if args.json:
        vms = [result.as_json() for result in results]
        out.json({"schema": 1, "status": status.name, "dry_run": args.dry_run, "vms": vms})
    else:
        _print(results, out)
    return status


def _rival(answer: AdoptAnswer, file: FileAnswer, where: Places) -> str | None:
    """Say who is in the way of a file's lock: empty when nobody is, None when that was not asked.

    Asks the share, in a bounded child: after a conflict always, in a dry run for each exclusive file.
    """
    if not file.conflict and (answer.result != "would-adopt" or file.mode != EXCLUSIVE):
        return None
    try:
        return reports.elsewhere(file, where) or file.conflict
    except VmguardError as problem:
        return problem.message if file.conflict else ""


def _print(results: Sequence[_Result], out: Output) -> None:
    if not results:
        out.line("no QEMU runs on this host")
    for result in sorted(results, key=lambda result: result.answer.vm.name):
        vm, word = result.answer.vm, result.answer.result
        who = f"VM '{vm.name}'" + (f" (pid {vm.pid})" if vm.pid else "")
        out.status(result.status.name, f"{who}: {_SENTENCES.get(word, vm.why)}")
        for file, rival in zip(vm.files, result.rivals, strict=True):
            out.line(f"  {file.role} {file.path}")
            if word != "would-adopt":
                out.line(f"      {guard_words(file)}")
            elif not rival:
                out.line(f"      would get its {file.mode} lock")
            if rival:
                out.line(f"      {rival}")
        if vm.stopped:
            out.line(f"      it is frozen; end one of the two, then: vmguard adopt {shell_word(vm.name)}")
