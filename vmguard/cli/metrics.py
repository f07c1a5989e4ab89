"""``vmguard metrics``: metrics for Prometheus, printed, written for node_exporter, or served.

It runs as a process of its own, so a scraper can never hold up the daemon, however often it asks.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vmguard.adapters.linux import atomic_file
from vmguard.cli import past, places
from vmguard.cli.arguments import UsageError, duration
from vmguard.cli.host import Answers
from vmguard.cli.output import Output
from vmguard.config import BadConfig, Config, last_good, load
from vmguard.core.locks.guard_states import GuardState
from vmguard.core.reports import metrics
from vmguard.core.reports.fenced_vms import FencedVm
from vmguard.core.reports.status import Status
from vmguard.errors import DaemonError, DaemonForbidden, VmguardError
from vmguard.protocol.client import Daemon
from vmguard.query import ask_daemon, other_mounts, running
from vmguard.query.answers import NO_HEALTH, HealthAnswer, Known, VmAnswer
from vmguard.query.json_fields import not_understood
from vmguard.query.places import Places

_LOCKED = (GuardState.PINNED, GuardState.HELD)
#: in place of the guard of a file that is locked where that proves nothing
_OTHER_MOUNT = "other-mount"
#: the server runs in threads of its own; the main thread only has to stay
_FOREVER_S = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="FILE", help="write this file, whole or not at all (node_exporter: *.prom)")
    parser.add_argument(
        "--every", metavar="TIME", type=duration(least=1), help="with --output: again and again, this far apart"
    )
    parser.add_argument("--listen", metavar="[HOST:]PORT", help="serve them by HTTP; HOST is 127.0.0.1 unless given")


def run(args: argparse.Namespace, out: Output) -> int:
    if args.listen and (args.output or args.every):
        raise UsageError("--listen serves, --output writes: only one of them", "vmguard metrics --help")
    if args.every and not args.output:
        raise UsageError("--every needs --output", "vmguard metrics --output FILE --every 15s")
    where, before = _places(args, out), Before(asks_again=bool(args.every))
    if args.listen:
        return _serve(args.listen, where, args.config)
    while True:
        seen = look(where, args.config, before)
        found = metrics.families(seen)
        if args.output:
            _write(args.output, metrics.text(found))
        elif args.json:
            out.json({"schema": 1, "metrics": [family._asdict() for family in found]})
        else:
            out.document(metrics.text(found))
        if not args.every:
            return Status.CRITICAL if seen.problem else Status.OK
        time.sleep(args.every)


def _places(args: argparse.Namespace, out: Output) -> Places:
    """Return where to look; the default places while the configuration is wrong and the last good one root's alone."""
    try:
        return places.of(args)
    except BadConfig as bad:
        if args.config is not None or os.geteuid() == 0:
            raise
        for problem in bad.problems:
            out.warn(f"the configuration is not taken: {problem}")
        return places.of_config(Config(), places.timeout_of(args))


@dataclass
class Before:
    """What the daemon has told a reader, for the time when it is down: its files are root's alone."""

    #: a daemon that does not let us ask may do so later, when it is there
    asks_again: bool = False
    vms: Sequence[dict[str, Any]] = ()
    history: Sequence[dict[str, Any]] = ()
    fenced: Sequence[FencedVm] = ()


def look(where: Places, config_paths: list[str] | None, before: Before | None = None) -> metrics.Answers:
    """Ask the daemon, and read the history, which is there without a daemon, too.

    ``config_paths``: where this command's own configuration comes from. ``before``: what was told the last time.
    Raises WireError when an answer is not understood, DaemonForbidden when this user may not ask.
    """
    answers = _look(where, before or Before())
    return answers._replace(config_valid=_is_config_valid(config_paths)) if answers.problem else answers


def _is_config_valid(paths: list[str] | None) -> bool:
    """Return whether the admin's files hold no mistake, also where this command goes by the last good ones."""
    try:
        load(None if paths == [last_good.PATH] else paths)
    except BadConfig:
        return False
    return True


def _look(where: Places, before: Before) -> metrics.Answers:
    try:
        running.require(where.run_dir)
        with Daemon(where.run_dir, where.timeout) as daemon:
            version, status, health = str(daemon.ping()["version"]), daemon.status(), daemon.health()
            known = Known(list(map(VmAnswer.from_json, status)), HealthAnswer.from_json(health))
            history = past.entries(where) if past.may_read(where.run_dir) else daemon.history()
        found = metrics.Answers.of(version, list(map(_with_mounts, status)), health, history, time.time())
        fenced = past.lately(history, known.health)
    except DaemonError as problem:
        return _without_daemon(problem, where, before)
    except (KeyError, TypeError, ValueError) as problem:
        raise not_understood(repr(problem)) from None
    before.vms, before.history, before.fenced = status, history, fenced
    line = Answers(known.vms, known.health, known.problem, fenced).with_other_mounts().line()
    return found._replace(fenced=len(fenced), severity=int(line.severity))


def _without_daemon(problem: DaemonError, where: Places, before: Before) -> metrics.Answers:
    """Return what its files tell. Where they are root's alone: what it told before.

    Raises DaemonForbidden when this user may not ask, and will not ask again. Who is frozen stays so
    as long as its QEMU lives: nobody else thaws a VM.
    """
    if past.may_read(where.run_dir):
        vms, history = list(ask_daemon.state_files(where.run_dir)), past.entries(where)
        fenced = past.fenced(where, NO_HEALTH)
    elif isinstance(problem, DaemonForbidden) and not before.asks_again:
        raise problem
    else:
        vms, history, fenced = list(before.vms), list(before.history), list(before.fenced)
    line = Answers(list(map(VmAnswer.from_json, vms)), NO_HEALTH, problem.message, fenced).with_other_mounts().line()
    alive = [vm for vm in vms if _lives(int(vm.get("pid") or 0))]
    found = metrics.Answers.without_daemon(problem.message, alive, history, time.time())
    return found._replace(fenced=len(fenced), severity=int(line.severity))


def _lives(pid: int) -> bool:
    """Return whether there is a process, also where /proc hides it from us."""
    if not pid:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _with_mounts(vm: dict[str, Any]) -> dict[str, Any]:
    """Count a writable file on a mount where no lock is proven to reach other hosts as such, however it is locked."""
    others = {item.path: item for item in other_mounts.of_vm(VmAnswer.from_json(vm))}
    files = [
        {**file, "guard": _OTHER_MOUNT} if file["path"] in others and file["guard"] in _LOCKED else file
        for file in vm["files"]
    ]
    unlocked = [{"guard": _OTHER_MOUNT} for item in others.values() if not item.is_locked]
    return {**vm, "files": files + unlocked}


def _write(path: str, text: str) -> None:
    """Replace the file: node_exporter may read at any moment, as a user of its own, to whom the folder may belong."""
    try:
        atomic_file.write(path, text.encode(), 0o644, sync=False)
    except OSError as problem:
        raise VmguardError(f"{path} cannot be written: {problem.strerror}") from problem


def _serve(address: str, where: Places, config_paths: list[str] | None) -> int:
    """Serve until interrupted. Each request asks the daemon anew."""
    try:
        from prometheus_client import start_http_server
    except ImportError as problem:
        what = "--listen needs the Python package prometheus_client, which is not installed"
        how = "apt install python3-prometheus-client, or write a file: vmguard metrics --output FILE"
        raise VmguardError(what, how) from problem
    host, port = _address(address)
    try:
        start_http_server(port, host, registry(lambda: look(where, config_paths)))
    except OSError as problem:
        raise VmguardError(f"cannot listen on {host}:{port}: {problem.strerror}") from problem
    while True:
        time.sleep(_FOREVER_S)


def registry(ask: Callable[[], metrics.Answers]) -> Any:
    """Return what prometheus_client serves; ``ask`` is called at each scrape."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import CollectorRegistry

    class Collector:
        """Asks the daemon at each scrape."""

        def collect(self) -> Iterator[Any]:
            for family in metrics.families(ask()):
                names = list(family.samples[0][0])
                make = CounterMetricFamily if family.kind == metrics.COUNTER else GaugeMetricFamily
                made = make(family.name, family.help, labels=names)
                for labels, value in family.samples:
                    made.add_metric([labels[name] for name in names], value)
                yield made

        def describe(self) -> list[Any]:
            """Return nothing, or registration itself would collect."""
            return []

    served = CollectorRegistry()
    served.register(Collector())
    return served


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise UsageError(f"{text!r} is not [HOST:]PORT", "vmguard metrics --listen 9797")
    return host.strip("[]") or "127.0.0.1", int(port)
