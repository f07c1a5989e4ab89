"""The steps of a command that changes this host: what it did, would do or left alone. For people and machines."""

from __future__ import annotations

from vmguard.adapters.linux import first_use
from vmguard.cli.output import Output
from vmguard.core.reports.status import Status, worst
from vmguard.errors import DaemonError, VmguardError
from vmguard.query.ask_daemon import DaemonQuery

DONE = "done"
ALREADY = "already"  # nothing to do
WOULD = "would"  # a dry run
UNSURE = "unsure"  # a human should look
FAILED = "failed"

_START_DAEMON = "systemctl enable --now vmguard.socket vmguard.service"
_STATUS = {DONE: Status.OK, ALREADY: Status.OK, WOULD: Status.OK, UNSURE: Status.WARNING, FAILED: Status.CRITICAL}


class Steps:
    """Prints each step as it happens, or with --json all of them at the end."""

    def __init__(self, command: str, subject: str, dry_run: bool, out: Output) -> None:
        self.dry_run = dry_run
        self._head = {"schema": 1, "command": command, "subject": subject, "dry_run": dry_run}
        self._out = out
        self._steps: list[dict[str, str]] = []

    def add(self, step: str, state: str, text: str) -> None:
        """Record and print a step. ``state``: one of the words above."""
        self._steps.append({"step": step, "state": state, "text": text})
        self._out.status(_STATUS[state].name, f"{step}: {text}")

    def end(self) -> int:
        """Finish the output; return the exit status."""
        status = worst([_STATUS[step["state"]] for step in self._steps])
        if self._out.as_json:
            self._out.json({**self._head, "status": status.name, "steps": self._steps})
        elif self.dry_run:
            self._out.line("dry run: nothing was changed")
        return status


def daemon_runs(run_dir: str, steps: Steps, without: str) -> bool:
    """Add a step that says whether the daemon runs; return whether it does.

    ``without`` says what would happen to VMs without it. Raises DaemonError when it does not run, except in a dry run.
    """
    try:
        with DaemonQuery(run_dir) as daemon:
            answer = daemon.ping()
    except DaemonError as problem:
        if not steps.dry_run:
            raise DaemonError(f"{problem.message}; {without}", _START_DAEMON) from None
        steps.add("daemon", FAILED, f"{problem.message}; do now: {_START_DAEMON}")
        return False
    steps.add("daemon", ALREADY, f"vmguard {answer.version} is running (pid {answer.pid})")
    return True


def put_to_use(run_dir: str, dry_run: bool) -> None:
    """Let the daemon take up VMs that run without their hook, from now on. Raises VmguardError."""
    try:
        if not dry_run:
            first_use.begin(run_dir)
    except OSError as problem:
        text = f"{first_use.mark(run_dir)} cannot be removed: {problem.strerror}"
        raise VmguardError(text, "run this as root") from problem
