"""Histories for pictures: outages with as many VMs as wanted, named by whoever likes to."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from typing import Any

#: names that have done harm somewhere, and names in other scripts
HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=http://evil.example/x onerror=document.title=1>',
    "</title></svg><h1>owned</h1>",
    "]]><!--",
    "&lt;b&gt;&#60;",
    "a\x1b[31m\u202eb\x00c\udcff",
    "{{7*7}} ${x} 'quoted'",
    "url(http://evil.example/)",
)
SCRIPTS = ("日本語の仮想マシン", "خادم-الويب", "сервер", "Πύλη", "שרת", "서버", "वेब", "🖥️-1", "e\u0301tage", "ﷺ" * 4)

_LEVELS = {"late": "warning", "at-risk": "warning", "expired": "error"}


def outage(names: Sequence[str], begin: float = 100.0, ahead: float = 0.0) -> list[dict[str, Any]]:
    """Return the lines of a storage's outage of 22 s: ``names`` are frozen 8 s after its last answer, and thawed.

    The last VM is fenced. ``begin``: the last answer, CLOCK_BOOTTIME; ``ahead``: seconds that the wall clock is ahead.
    """
    lines = [
        _mount(begin - 90, "seen", "/srv/vm: lease 10 s; freeze 8 s after the last answered request"),
        _mount(begin + 3.4, "late", "/srv/vm: healthy => late: freeze in 4.6 s", age="3.4"),
        _mount(begin + 8, "at-risk", "/srv/vm: late => at-risk: the lease may end in 2.0 s", age="8.0"),
        *(_vm(begin + 8, "freeze", name, "is frozen: /srv/vm has answered nothing", "warning") for name in names),
        _mount(begin + 10, "expired", "/srv/vm: at-risk => expired: another host may get the locks", age="10.0"),
        _mount(begin + 22, "recovering", "/srv/vm: expired => recovering: the server answers again", age="0.1"),
        *(_vm(begin + 22.5, "thaw", name, "thawed after 14.5 s: every lock is proven kept") for name in names[:-1]),
    ]
    last = names[-1]
    lost = _vm(begin + 23, "lost", last, "the lock is LOST: EIO through its own descriptor, twice", "error")
    lost |= {"code": "lock.lost", "fields": {**lost["fields"], "verdict": "lost", "evidence": "EIO, twice"}}
    lines += [lost, _vm(begin + 23, "fence", last, "is fenced (killed): the lock is lost", "error")]
    for number, rung in enumerate(("copy", "kill", "death", "release", "done")):
        step = _vm(begin + 23.2 + number / 4, rung, last, f"fence: {rung}")
        lines.append({**step, "code": f"fence.{rung}"})
    lines.append(_mount(begin + 25, "healthy", "/srv/vm: recovering => healthy: all locks stand", age="0.3"))
    return [_timed(line, ahead) for line in lines]


def in_file(lines: Sequence[dict[str, Any]]) -> str:
    """Return lines as the history's file has them."""
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def _mount(second: float, what: str, text: str, **more: str) -> dict[str, Any]:
    fields = {"mount": "/srv/vm", **({"phase": what} if what != "seen" else {}), **more}
    level = _LEVELS.get(what, "info")
    return {"boottime": second, "level": level, "code": f"mount.{what}", "text": text, "fields": fields}


def _vm(second: float, what: str, name: str, text: str, level: str = "info") -> dict[str, Any]:
    fields = {
        "vm": f"libvirt-{name}",
        "name": name,
        "uuid": f"uuid-{name}",
        "mount": "/srv/vm",
        "disk": f"/srv/vm/{name}",
    }
    sentence = f"VM '{name}' {text}"
    return {"boottime": round(second, 3), "level": level, "code": f"vm.{what}", "text": sentence, "fields": fields}


def _timed(line: dict[str, Any], ahead: float) -> dict[str, Any]:
    at = datetime.datetime(2026, 11, 20, 13, tzinfo=datetime.UTC) + datetime.timedelta(seconds=line["boottime"] + ahead)
    return {"at": at.strftime("%Y-%m-%dT%H:%M:%SZ"), **line}
