"""Times for people: this host's own clock with its zone, in one form everywhere. Pure.

Records, state files and JSON have UTC (ISO 8601, ``2026-11-20T15:06:11Z``). People read what their own clock shows.
"""

from __future__ import annotations

import datetime

_ISO = "%Y-%m-%dT%H:%M:%SZ"


def local_time(at: str, now: datetime.datetime | None = None) -> str:
    """Return a time as ``17:43:34 CET``, with the date before it unless that is the day of ``now``.

    What is no time is returned as it is.
    """
    try:
        utc = datetime.datetime.strptime(at, _ISO).replace(tzinfo=datetime.UTC)
    except ValueError:
        return at
    here = utc.astimezone()
    day = "" if now is not None and here.date() == now.astimezone().date() else f"{here:%Y-%m-%d} "
    return f"{day}{here:%H:%M:%S %Z}"


def after(now: datetime.datetime, seconds: float) -> str:
    """Return the time some seconds from now, in UTC; negative seconds: before now."""
    return (now + datetime.timedelta(seconds=seconds)).astimezone(datetime.UTC).strftime(_ISO)
