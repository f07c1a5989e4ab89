"""What a command that changes this host did, would do or left alone: step by step, for people and for machines."""

from __future__ import annotations

from vmguard.cli.output import Output
from vmguard.core.report import Status, worst

DONE = "done"
ALREADY = "already"  # nothing to do
WOULD = "would"  # a dry run
UNSURE = "unsure"  # a human should look
FAILED = "failed"

_STATUS = {DONE: Status.OK, ALREADY: Status.OK, WOULD: Status.OK, UNSURE: Status.WARNING, FAILED: Status.CRITICAL}


class Steps:
    """Prints each step as it happens; with --json all of them at the end."""

    def __init__(self, command: str, subject: str, dry_run: bool, out: Output) -> None:
        self.dry_run = dry_run
        self._head = {"schema": 1, "command": command, "subject": subject, "dry_run": dry_run}
        self._out = out
        self._steps: list[dict[str, str]] = []

    def add(self, step: str, state: str, text: str) -> None:
        self._steps.append({"step": step, "state": state, "text": text})
        self._out.status(_STATUS[state].name, f"{step}: {text}")

    def end(self) -> int:
        """The exit status of the whole."""
        status = worst([_STATUS[step["state"]] for step in self._steps])
        if self._out.as_json:
            self._out.json({**self._head, "status": status.name, "steps": self._steps})
        elif self.dry_run:
            self._out.line("dry run: nothing was changed")
        return status
