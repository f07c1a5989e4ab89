"""``vmguard enable libvirt`` and ``vmguard disable libvirt``: the hook, and the proof of what libvirt does with it.

What enable did is recorded in the hook's own last line, so disable can undo it exactly, and the record cannot get lost
or go stale.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable

from vmguard.adapters.libvirt import hook_file as libvirt_hook
from vmguard.adapters.libvirt.hook_file import CALLED, NOT_CALLED, UNKNOWN, Proof
from vmguard.adapters.linux import first_use, roots_file
from vmguard.cli import hook_script, places
from vmguard.cli.output import Output
from vmguard.cli.steps import ALREADY, DONE, FAILED, UNSURE, WOULD, Steps, daemon_runs, put_to_use
from vmguard.config import load
from vmguard.core import LIBVIRT
from vmguard.core.words import shell_word
from vmguard.errors import BadInput, DaemonError, VmguardError
from vmguard.query import ask_daemon
from vmguard.query.ask_daemon import AdoptRequest, DaemonQuery

#: the hook's last line; the folders that were made for it follow
_TRAILER = '# Put here by "vmguard enable libvirt"; folders made for it: '
#: after SIGHUP libvirt must have read its hooks again within this time
_RELOAD_TIMEOUT_S = 10.0
_PROOF_INTERVAL_S = 0.2


def enable(args: argparse.Namespace, out: Output) -> int:
    """Install the hook and prove that libvirt calls it; return the exit status."""
    config = load(args.config)
    steps = Steps("enable", LIBVIRT, args.dry_run, out)
    if libvirt_hook.version() is None:
        raise BadInput(
            "this host has no libvirt: neither virtqemud nor libvirtd is installed", "apt install libvirt-daemon-system"
        )
    guard = daemon_runs(config.daemon.run_dir, steps, "with the hook in place no VM could start")
    path = _place(config.libvirt.hooks_dir)
    changed = _install(path, args.dry_run, steps)
    put_to_use(config.daemon.run_dir, args.dry_run)
    _make_seen(CALLED, changed, args.dry_run, steps)
    if guard:
        _running_vms(config.daemon.run_dir, args, steps)
    return steps.end()


def disable(args: argparse.Namespace, out: Output) -> int:
    """Remove the hook and prove that libvirt calls it no longer; return the exit status."""
    config = load(args.config)
    steps = Steps("disable", LIBVIRT, args.dry_run, out)
    found = libvirt_hook.installed(config.libvirt.hooks_dir)
    for path in found:
        _remove(path, args.dry_run, steps)
    if not found:
        steps.add("hook", ALREADY, f"no hook of vmguard in {config.libvirt.hooks_dir}")
    if not args.dry_run:
        _take_none_up(config.daemon.run_dir, steps)
    if libvirt_hook.version() is not None:
        _make_seen(NOT_CALLED, bool(found), args.dry_run, steps)
    _still_guarded(config.daemon.run_dir, steps)
    return steps.end()


# -- the hook -------------------------------------------------------------------------------------------------------


def _place(hooks_dir: str) -> str:
    """Return where our hook belongs on this host. Raises VmguardError when another hook occupies the only place."""
    ours = libvirt_hook.installed(hooks_dir)
    if len(ours) > 1:
        raise VmguardError(
            f"vmguard's hook is there {len(ours)} times ({', '.join(ours)}): each start would claim its disks twice",
            f"rm {' '.join(map(shell_word, ours[1:]))}",
        )
    single, in_folder = libvirt_hook.own_places(hooks_dir)
    if ours:
        return ours[0]
    version = libvirt_hook.version() or (0,)
    if version >= libvirt_hook.FOLDER_SINCE:
        return in_folder
    if os.path.lexists(single):
        name = ".".join(map(str, version))
        raise VmguardError(
            f"{single} is another program's hook, and libvirt {name} runs no second one; it is not touched",
            f"vmguard hook-script libvirt > {hooks_dir}/vmguard; chmod 755 {hooks_dir}/vmguard; then let {single} hand"
            f' its standard input and "$@" to it first, and exit with its status when that is not 0',
        )
    return single


def _install(path: str, dry_run: bool, steps: Steps) -> bool:
    """Install or update the hook; return whether anything had to change."""
    there = libvirt_hook.content(path)
    missing = _missing_folders(os.path.dirname(path))
    made = missing or _made(there)
    wanted = hook_script.text(LIBVIRT).encode() + f"{_TRAILER}{' '.join(made) or 'none'}\n".encode()
    roots_file.require_folder(os.path.dirname(path))
    if there == wanted and os.access(path, os.X_OK) and not roots_file.why_not(path):
        steps.add("hook", ALREADY, f"{path} is there and up to date")
        return False
    verb = "replaced by this version's" if there else "installed"
    if dry_run:
        steps.add("hook", WOULD, f"{path} would be {verb}")
        return True
    try:
        for folder in missing:
            os.mkdir(folder, 0o755)
        libvirt_hook.write(path, wanted)
    except OSError as problem:
        raise VmguardError(f"{path} cannot be written: {problem.strerror}", "run this as root") from problem
    steps.add("hook", DONE, f"{path} was {verb}; other hooks are as they were")
    return True


def _missing_folders(folder: str) -> list[str]:
    found: list[str] = []
    while not os.path.isdir(folder):
        found.insert(0, folder)
        folder = os.path.dirname(folder)
    return found


def _made(there: bytes) -> list[str]:
    """Return the folders that enable made for a hook, from the hook's last line."""
    _, mark, tail = there.decode(errors="replace").rpartition(_TRAILER)
    return [word for word in tail.split() if mark and word.startswith("/")]


def _remove(path: str, dry_run: bool, steps: Steps) -> None:
    folders = _made(libvirt_hook.content(path))
    if dry_run:
        steps.add("hook", WOULD, f"{path} would be removed")
        return
    try:
        os.unlink(path)
    except OSError as problem:
        raise VmguardError(f"{path} cannot be removed: {problem.strerror}", "run this as root") from problem
    gone = [folder for folder in reversed(folders) if _rmdir(folder)]
    also = f", and the empty {' and '.join(gone)}" if gone else ""
    steps.add("hook", DONE, f"{path} was removed{also}; other hooks are as they were")


def _rmdir(folder: str) -> bool:
    """Remove a folder that enable made, unless somebody has put something there since; return whether it is gone."""
    try:
        os.rmdir(folder)
    except OSError:
        return False
    return True


# -- what libvirt does ----------------------------------------------------------------------------------------------

_SENTENCES = {
    CALLED: "libvirt calls the hook and obeys it: it refused a VM that the hook refuses",
    NOT_CALLED: "libvirt does NOT call the hook",
    UNKNOWN: "what libvirt does could not be seen",
}


def _make_seen(wanted: str, changed: bool, dry_run: bool, steps: Steps) -> None:
    """Have libvirt read its hooks again if needed, and prove what it does with them."""
    if dry_run:
        if changed:
            names = ", ".join(f"{name} (pid {pid})" for pid, name in libvirt_hook.running().items())
            steps.add("reload", WOULD, f"{names or 'no libvirt daemon runs: nobody'} would be told to read its hooks")
        return
    proof = libvirt_hook.prove()
    if proof.answer != wanted and proof.answer != UNKNOWN:
        told = libvirt_hook.reload()
        steps.add(
            "reload", DONE if told else FAILED, f"{', '.join(told) or 'nobody'} was told to read its hooks (SIGHUP)"
        )
        proof = _until(wanted, libvirt_hook.prove)
    state = {wanted: DONE, UNKNOWN: UNSURE}.get(proof.answer, FAILED)
    told_by = "" if proof.answer == wanted else f": {proof.words}"
    if wanted == NOT_CALLED and proof.answer == wanted:
        steps.add("proof", DONE, "libvirt calls no hook of vmguard any more: VMs start UNGUARDED from now on")
    else:
        steps.add("proof", state, _SENTENCES[proof.answer] + told_by)


def _until(wanted: str, prove: Callable[[], Proof]) -> Proof:
    deadline = time.monotonic() + _RELOAD_TIMEOUT_S
    while True:
        proof = prove()
        if proof.answer in (wanted, UNKNOWN) or time.monotonic() > deadline:
            return proof
        time.sleep(_PROOF_INTERVAL_S)


# -- running VMs ----------------------------------------------------------------------------------------------------


def _running_vms(run_dir: str, args: argparse.Namespace, steps: Steps) -> None:
    """Report the VMs that run unguarded, and adopt them on request: they need no restart."""
    request = AdoptRequest(everything=True, dry_run=True, seconds=places.timeout_of(args))
    unguarded = [answer.vm for answer in ask_daemon.adopt(run_dir, request) if answer.result == "would-adopt"]
    names = ", ".join(f"'{vm.name}'" for vm in unguarded)
    if not unguarded:
        steps.add("vms", ALREADY, "no VM runs unguarded on this host")
    elif args.adopt and not args.dry_run:
        answers = ask_daemon.adopt(run_dir, dataclasses.replace(request, dry_run=False))
        left = [answer.vm.name for answer in answers if answer.has_no_lock]
        steps.add("vms", FAILED if left else DONE, f"adopted: {names}" + (f"; not: {', '.join(left)}" if left else ""))
    else:
        steps.add(
            "vms",
            WOULD if args.adopt else UNSURE,
            f"run unguarded: {names}; to guard them as they run: vmguard adopt --all",
        )


def _take_none_up(run_dir: str, steps: Steps) -> None:
    try:
        first_use.end(run_dir)
    except OSError as problem:
        text = f"VMs that start unguarded are guarded again within seconds: {problem.strerror}"
        steps.add("take-up", UNSURE, text)
    else:
        steps.add("take-up", DONE, "VMs that start from now on are left alone: vmguard adopt guards one")


def _still_guarded(run_dir: str, steps: Steps) -> None:
    try:
        with DaemonQuery(run_dir) as daemon:
            names = [vm.name for vm in daemon.guarded_vms()]
    except DaemonError:
        return
    if names:
        steps.add("vms", ALREADY, f"still guarded until they end: {', '.join(repr(name) for name in sorted(names))}")
