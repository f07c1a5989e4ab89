"""``vmguard notify test [TARGET]``: send a message and say what was answered; ``notify status``: queues and results."""

from __future__ import annotations

import argparse
import time
from typing import Any

from vmguard.adapters.linux import clock, host_identity
from vmguard.adapters.linux.bounded_child import Child
from vmguard.adapters.messages import sending
from vmguard.adapters.messages.queue import Queue
from vmguard.cli import notify_watch
from vmguard.cli.output import Output
from vmguard.config import Config, Target, did_you_mean, load
from vmguard.core.notices import message as messages
from vmguard.core.notices.event import make
from vmguard.core.reports.status import Status, worst
from vmguard.core.watchdog.events import Level
from vmguard.errors import BadInput, VmguardError

#: beyond a target's own timeout, until an attempt is given up
_GRACE_S = 3.0
_ADD = "add one to notify.targets in /etc/vmguard/vmguard.yaml: man vmguard.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    help = "send a test message, and say what was answered"
    test = actions.add_parser("test", help=help, description=f"To all targets, or to one: {help}.")
    test.add_argument("target", nargs="?", metavar="TARGET", help="only this one of notify.targets")
    help = "what waits for each target, and what became of the last message"
    actions.add_parser("status", help=help, description=f"Print {help}.")
    help = "while the daemon is down: say so to the targets, once, and send what waits (vmguard-notify.timer runs it)"
    actions.add_parser("watch", help=help, description=f"{help[0].upper()}{help[1:]}.")


def run(args: argparse.Namespace, out: Output) -> int:
    config = load(args.config)
    actions = {"test": _test, "status": _status, "watch": _watch}
    return actions[args.action](args, config, out)


# -- test -------------------------------------------------------------------------------------------------------------


def _test(args: argparse.Namespace, config: Config, out: Output) -> int:
    chosen = _chosen(config.notify_targets(), args.target)
    begun = [(name, target, _attempt(name, target)) for name, target in chosen.items()]
    results = [_result(name, target, child) for name, target, child in begun]
    status = worst(Status.OK if found["ok"] else Status.CRITICAL for found in results)
    if args.json:
        out.json({"schema": 1, "status": status.name, "targets": results})
        return status
    for found in results:
        words = f"{found['target']} ({found['type']}): {found['answer']}"
        out.status("OK" if found["ok"] else "CRITICAL", words)
        if found["hint"]:
            out.line(f"      do now: {found['hint']}")
    return status


def _chosen(targets: dict[str, Target], name: str | None) -> dict[str, Target]:
    if not targets:
        raise BadInput("there is no target to send a message to", _ADD)
    if name is None:
        return targets
    if name not in targets:
        known = ", ".join(targets)
        raise BadInput(f"there is no target '{name}'{did_you_mean(name, targets)}", f"the targets are: {known}")
    return {name: targets[name]}


def _attempt(name: str, target: Target) -> Child:
    host, at = host_identity.host_name(), clock.wall()
    text = f"this is a test of the target {name}: nothing has happened"
    event = make(at, "notify.test", Level.INFO, text, {"target": name}, str(time.time_ns()))
    message = messages.compose([event], host, is_test=True)
    wanted = target.as_json()

    def send() -> dict[str, str]:
        sending.confine()
        return {"answer": sending.send(message, wanted)}

    return Child(send, target.timeout + _GRACE_S, f"a message was sent to {name}")


def _result(name: str, target: Target, child: Child) -> dict[str, Any]:
    found: dict[str, Any] = {"target": name, "type": str(target.type), "ok": True, "answer": "", "hint": ""}
    try:
        return {**found, **child.result()}
    except VmguardError as problem:
        return {**found, "ok": False, "answer": _told(problem), "hint": problem.hint}


def _told(problem: VmguardError) -> str:
    hung = problem.message.startswith("the storage did not answer")  # the words of a child that works on a share
    return "it did not answer in time" if hung else problem.message


def _watch(args: argparse.Namespace, config: Config, out: Output) -> int:
    problem = notify_watch.watch(config, notify_watch.PATIENCE_S if args.timeout is None else args.timeout)
    status = Status.WARNING if problem else Status.OK
    if args.json:
        out.json({"schema": 1, "status": status.name, "daemon": problem or "up"})
    else:
        out.status(status.name, problem or "the daemon answers, and sends what waits itself")
    return status


# -- status -----------------------------------------------------------------------------------------------------------


def _status(args: argparse.Namespace, config: Config, out: Output) -> int:
    targets = [_target(config.notify.queue_dir, name, target) for name, target in config.notify_targets().items()]
    failing = [found for found in targets if found["problem"]]
    status = Status.WARNING if failing else Status.OK
    if args.json:
        out.json({"schema": 1, "status": status.name, "targets": targets})
        return status
    if not targets:
        out.status("OK", f"there is no target; {_ADD}")
        return status
    names = ", ".join(found["target"] for found in failing)
    out.status(status.name, f"not delivered: {names}" if failing else f"{len(targets)} targets, nothing failed")
    out.table(
        ["target", "type", "waiting", "delivered", "dropped", "last"],
        [
            [found["target"], found["type"], found["waiting"], found["messages"], found["dropped"], _last(found)]
            for found in targets
        ],
    )
    return status


def _target(folder: str, name: str, target: Target) -> dict[str, Any]:
    queue = Queue(folder, name)
    state, opened = queue.state(), queue.opened()
    return {
        "target": name,
        "type": str(target.type),
        "waiting": queue.waiting(),
        "messages": state.messages,
        "dropped": opened.dropped,
        "problem": state.problem,
        "failing_since": state.failing_since,
        "answer": state.answer,
        "tried": state.tried,
        "delivered": state.delivered,
        "retry_in": round(max(0.0, state.pace.due(clock.boottime()) - clock.boottime()), 1),
    }


def _last(found: dict[str, Any]) -> str:
    if found["problem"]:
        return f"FAILED since {found['failing_since']}: {found['problem']}; again in {found['retry_in']:.0f} s"
    return f"{found['delivered']}: {found['answer']}" if found["delivered"] else "nothing was sent yet"
