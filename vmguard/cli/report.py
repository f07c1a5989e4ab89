"""``vmguard report``: one archive with everything that a bug report needs, without secrets; or several, merged."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import json
import os
import tarfile
import time
from collections.abc import Callable

import vmguard
from vmguard import config as configuration
from vmguard.adapters.linux import atomic_file, bounded_child, clock, clock_sync, programs
from vmguard.cli import doctor, merge
from vmguard.cli.output import Output
from vmguard.core.reports.status import Status
from vmguard.core.sources.secrets import without_secrets
from vmguard.core.words import file_name, in_utf8
from vmguard.errors import VmguardError
from vmguard.protocol.client import Daemon

#: how long the daemon may take to answer
_DAEMON_TIMEOUT_S = 10.0
_COMMAND_TIMEOUT_S = 20.0
_MAX_PART_BYTES = 4 * 1024 * 1024
_FILES = (
    "/proc/version",
    "/proc/uptime",
    "/proc/locks",
    "/proc/self/mountinfo",
    "/proc/self/mountstats",
    "/etc/os-release",
    "/etc/modprobe.d/vmguard-nfs.conf",
)
_COMMANDS = {
    "systemctl.txt": ["systemctl", "status", "--no-pager", "--full", "vmguard.socket", "vmguard.service"],
    "journal.txt": ["journalctl", "--no-pager", "-o", "short-precise", "-n", "5000", "-u", "vmguard"],
    "kernel.txt": ["journalctl", "--no-pager", "-k", "-n", "500", "-g", "nfs|NFS"],
    "libvirt.txt": ["libvirtd", "--version"],
    "packages.txt": ["dpkg-query", "-W", "vmguard", "libvirt-daemon", "qemu-system-x86", "nfs-common", "python3"],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="FILE", help="where to put it; ./vmguard-report-HOST-TIME.tar.gz else")
    merge.add_arguments(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    if args.merge:
        return merge.run(args, out)
    merge.refuse_without_merge(args)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    name = f"vmguard-report-{file_name(os.uname().nodename)}-{stamp}"
    path = args.output or f"{name}.tar.gz"
    parts = _parts(args)
    try:
        _pack(path, name, parts)
    except OSError as problem:
        raise VmguardError(f"{path} cannot be written: {problem.strerror}") from problem
    if args.json:
        out.json({"schema": 1, "file": os.path.abspath(path), "parts": {key: len(data) for key, data in parts.items()}})
        return Status.OK
    out.status("OK", f"{path} has {len(parts)} parts: {', '.join(parts)}")
    out.line("  values that look like secrets were left out; look through it before you give it away:")
    out.line(f"  tar -xOzf {path} | less")
    return Status.OK


def _parts(args: argparse.Namespace) -> dict[str, bytes]:
    """Return the content of each part by its name. A part that cannot be made says why, and never stops the others."""
    run_dir = "/run/vmguard"
    try:
        run_dir = configuration.load_or_kept(args.config)[0].daemon.run_dir
    except configuration.BadConfig:
        pass  # the doctor's part says what is wrong with the configuration
    makers: dict[str, Callable[[], str]] = {
        "version.txt": lambda: f"vmguard {vmguard.__version__}\n",
        "config.yaml": lambda: _config(args),
        "status.json": lambda: _asked(run_dir, Daemon.status),
        "health.json": lambda: _asked(run_dir, Daemon.health),
        "doctor.json": lambda: _doctor(args),
        "clock.json": _clock,
        "history.jsonl": lambda: _file(os.path.join(run_dir, "history.jsonl")),
    }
    for file in _state_files(run_dir):
        makers[f"state/{os.path.basename(file)}"] = functools.partial(_file, file)
    for file in _FILES:
        makers[file.strip("/").replace("/", "-")] = functools.partial(_file, file)
    for name, command in _COMMANDS.items():
        makers[name] = functools.partial(_command, command)
    return {name: _made(maker) for name, maker in makers.items()}


def _made(maker: Callable[[], str]) -> bytes:
    try:
        return without_secrets(maker()).encode(errors="backslashreplace")[:_MAX_PART_BYTES]
    except Exception as problem:  # whatever it is, the other parts are still wanted
        return f"not to be had: {type(problem).__name__}: {problem}\n".encode(errors="replace")


def _config(args: argparse.Namespace) -> str:
    """Return what is in force. notify.command may contain anything: only its presence is shown."""
    effective, problems = configuration.load_or_kept(args.config)
    lines = [f"# {problem}" for problem in problems]
    for row in configuration.settings():
        value = row.kind.show(effective.value(row))
        shown = "***" if row.name == "notify.command" and effective.value(row) else value
        lines.append(f"{row.name}: {shown}    # {effective.origin(row)}")
    lines += [f"notify.targets.{name}: {target.type}" for name, target in effective.notify_targets().items()]
    lines += [f"vms.{name}: {dict(entry)}" for name, entry in effective.vms.items()]
    return "\n".join(lines) + "\n"


def _doctor(args: argparse.Namespace) -> str:
    """Return what the doctor finds, in a child that can be killed. No interpreter is started for it."""
    found = bounded_child.run(lambda: doctor.answer(args.config), _COMMAND_TIMEOUT_S, "the doctor looked at this host")
    return json.dumps(found) + "\n"


def _clock() -> str:
    """Return both clocks of one moment, and what the kernel says of the wall clock: for ``--merge``."""
    sync = clock_sync.read()
    said = None if sync is None else dataclasses.asdict(sync)
    return json.dumps({"at": clock.wall(), "boottime": round(clock.boottime(), 3), "sync": said}) + "\n"


def _asked(run_dir: str, ask: Callable[[Daemon], object]) -> str:
    with Daemon(run_dir, _DAEMON_TIMEOUT_S) as daemon:
        return json.dumps(in_utf8(ask(daemon)), indent=1) + "\n"


def _state_files(run_dir: str) -> list[str]:
    folder = os.path.join(run_dir, "vms")
    try:
        return sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".json"))
    except OSError:
        return []


def _file(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as stream:
        return stream.read(_MAX_PART_BYTES)


def _command(command: list[str]) -> str:
    return programs.run(command, _COMMAND_TIMEOUT_S, mixed=True).text


def _pack(path: str, name: str, parts: dict[str, bytes]) -> None:
    """Write the archive, readable for its owner alone: it names VMs, hosts and paths."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for part, data in parts.items():
            entry = tarfile.TarInfo(f"{name}/{part}")
            entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(data))
    atomic_file.create(path, packed.getvalue())
