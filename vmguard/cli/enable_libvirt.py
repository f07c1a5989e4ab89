"""``vmguard enable libvirt`` and ``vmguard disable libvirt``: the hook, and the proof of what libvirt does with it.

What enable did stands in the hook itself, in its last line, so that disable can undo it exactly and no record of it
can be lost or go stale.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

from vmguard.adapters.libvirt import hook_file as libvirt_hook
from vmguard.adapters.libvirt.hook_file import CALLED, NOT_CALLED, UNKNOWN, Proof
from vmguard.cli import hook_script
from vmguard.cli.output import Output
from vmguard.cli.steps import ALREADY, DONE, FAILED, UNSURE, WOULD, Steps, daemon_runs
from vmguard.config import load
from vmguard.core import LIBVIRT
from vmguard.errors import BadInput, DaemonError, VmguardError
from vmguard.protocol.client import Daemon

#: the hook's last line, and behind it the folders that were made for it
_TRAILER = '# Put here by "vmguard enable libvirt"; folders made for it: '
#: seconds in which libvirt must have read its hooks again after SIGHUP
_RELOAD = 10.0


def enable(args: argparse.Namespace, out: Output) -> int:
    config = load(args.config)
    steps = Steps("enable", LIBVIRT, args.dry_run, out)
    if libvirt_hook.version() is None:
        raise BadInput(
            "this host has no libvirt: neither virtqemud nor libvirtd is installed", "apt install libvirt-daemon-system"
        )
    guard = daemon_runs(config.daemon.run_dir, steps, "with the hook in place no VM could start")
    path = _place(config.libvirt.hooks_dir)
    changed = _install(path, args.dry_run, steps)
    _make_seen(CALLED, changed, args.dry_run, steps)
    if guard:
        _running_vms(config.daemon.run_dir, args, steps)
    return steps.end()


def disable(args: argparse.Namespace, out: Output) -> int:
    config = load(args.config)
    steps = Steps("disable", LIBVIRT, args.dry_run, out)
    found = libvirt_hook.installed(config.libvirt.hooks_dir)
    for path in found:
        _remove(path, args.dry_run, steps)
    if not found:
        steps.add("hook", ALREADY, f"no hook of vmguard in {config.libvirt.hooks_dir}")
    if libvirt_hook.version() is not None:
        _make_seen(NOT_CALLED, bool(found), args.dry_run, steps)
    _still_guarded(config.daemon.run_dir, steps)
    return steps.end()


# -- the daemon -----------------------------------------------------------------------------------------------------


# -- the hook -------------------------------------------------------------------------------------------------------


def _place(hooks_dir: str) -> str:
    """Where our hook belongs on this host. Raises VmguardError where another hook has the only place."""
    ours = libvirt_hook.installed(hooks_dir)
    if len(ours) > 1:
        raise VmguardError(
            f"vmguard's hook is there {len(ours)} times ({', '.join(ours)}): each start would claim its disks twice",
            f"rm {' '.join(ours[1:])}",
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
    """Whether anything had to change."""
    there = libvirt_hook.content(path)
    missing = _missing_folders(os.path.dirname(path))
    made = missing or _made(there)
    wanted = hook_script.text(LIBVIRT).encode() + f"{_TRAILER}{' '.join(made) or 'none'}\n".encode()
    if there == wanted and os.access(path, os.X_OK):
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
    """The folders that the enable of a hook had to make, by its own last line."""
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
    """Only a folder that enable made, and only when nobody has put anything there since."""
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
    """Have libvirt read its hooks again where that is needed, and prove what it does then."""
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
    deadline = time.monotonic() + _RELOAD
    while True:
        proof = prove()
        if proof.answer in (wanted, UNKNOWN) or time.monotonic() > deadline:
            return proof
        time.sleep(0.2)


# -- VMs that run ---------------------------------------------------------------------------------------------------


def _running_vms(run_dir: str, args: argparse.Namespace, steps: Steps) -> None:
    """VMs that were started before: they need no restart, only to be adopted."""
    seconds = 10.0 if args.timeout is None else args.timeout
    wanted: dict[str, Any] = {"names": [], "all": True, "pid": 0, "dry_run": True, "seconds": seconds}
    with Daemon(run_dir, seconds + 5.0) as daemon:
        unguarded = [vm for vm in daemon.adopt(wanted) if vm["result"] == "would-adopt"]
    names = ", ".join(f"'{vm['name']}'" for vm in unguarded)
    if not unguarded:
        steps.add("vms", ALREADY, "no VM runs unguarded on this host")
    elif args.adopt and not args.dry_run:
        with Daemon(run_dir, seconds + 5.0) as daemon:
            results = {vm["name"]: vm for vm in daemon.adopt({**wanted, "dry_run": False})}
        left = [name for name, vm in results.items() if vm["result"] in ("conflict", "pending")]
        steps.add("vms", FAILED if left else DONE, f"adopted: {names}" + (f"; not: {', '.join(left)}" if left else ""))
    else:
        steps.add(
            "vms",
            WOULD if args.adopt else UNSURE,
            f"run unguarded: {names}; to guard them as they run: vmguard adopt --all",
        )


def _still_guarded(run_dir: str, steps: Steps) -> None:
    try:
        with Daemon(run_dir) as daemon:
            names = [vm["name"] for vm in daemon.status()]
    except DaemonError:
        return
    if names:
        steps.add("vms", ALREADY, f"still guarded until they end: {', '.join(repr(name) for name in sorted(names))}")
