"""One finding: a check, its subject, its level, and how to mend it. Their words are part of the JSON schema."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from vmguard.core.reports.status import Status, worst
from vmguard.doctor.catalogue import CHECKS

#: the command that mends every finding about the NFS client id
FIX_IDENTITY = "vmguard doctor --fix identity"


class Level(enum.StrEnum):
    """OK: examined and fine. WARN: not known to be unsafe today. FAIL: a disk can be destroyed, or VMs stop."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


_STATUS = {Level.OK: Status.OK, Level.WARN: Status.WARNING, Level.FAIL: Status.CRITICAL}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    ``subject``: the mount, VM or part of the host that was examined. ``mend``: the command that mends it, if there is
    one.
    """

    check: str
    subject: str
    level: Level
    text: str
    mend: str = ""

    @property
    def why(self) -> str:
        return CHECKS[self.check]

    def as_json(self) -> dict[str, str]:
        return {
            "check": self.check,
            "subject": self.subject,
            "level": str(self.level),
            "text": self.text,
            "why": self.why,
            "mend": self.mend,
        }


def ok(check: str, subject: str, text: str) -> Finding:
    return Finding(check, subject, Level.OK, text)


def warn(check: str, subject: str, text: str, mend: str) -> Finding:
    return Finding(check, subject, Level.WARN, text, mend)


def fail(check: str, subject: str, text: str, mend: str) -> Finding:
    return Finding(check, subject, Level.FAIL, text, mend)


def status_of(findings: list[Finding]) -> Status:
    """Return the exit code, by the convention of ``vmguard check``."""
    return worst([_STATUS[finding.level] for finding in findings])
