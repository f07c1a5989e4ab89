"""What the colours and shapes of a drawing mean: those that occur in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

from vmguard.core.pictures.bars import STRIPS, Kind, Lane
from vmguard.core.pictures.markup import escaped, tag
from vmguard.core.pictures.signs import SIGN_WORDS, shape

_MEANINGS: dict[Kind, str] = {
    Kind.SILENT: "silent: no answer to any later request",
    Kind.LATE: "late: a third of the lease is over",
    Kind.AT_RISK: "at risk: nobody may run",
    Kind.EXPIRED: "expired: another host may get the locks",
    Kind.RECOVERING: "recovering: every lock is asked",
    Kind.FROZEN: "frozen",
    Kind.FENCING: "fence (killed)",
    Kind.WOULD_FREEZE: "WOULD be frozen: only reported",
    Kind.WOULD_FENCE: "WOULD be fenced: only reported",
    Kind.CONFLICT: "conflict: another lock on its disk",
    Kind.UNGUARDED: "unguarded by policy",
    Kind.REPLACED: "its disk was replaced",
    Kind.DISARMED: "maintenance: all is reported only",
    Kind.ASLEEP: "suspended, or stood still",
    Kind.UNKNOWN: "unknown: the history does not say",
}
_LETTER_PX, _LINE_PX, _LEFT = 5.6, 16.0, 8.0


def legend(kinds: Set[Kind], lanes: Sequence[Lane], y: float, width: float) -> tuple[str, float]:
    """Return the legend as markup that begins at ``y``, and where it ends."""
    found = [(_swatch(kind), text) for kind, text in _MEANINGS.items() if kind in kinds]
    if any(lane.leases for lane in lanes):
        found.append(('<polygon class="lease" points="0,0 18,9 0,9"/>', "lease that nobody renews"))
    if any(not (bar.begin_known and bar.end_known) for lane in lanes for bar in lane.bars):
        found.append(('<line class="open" x1="9" x2="9" y1="-2" y2="11"/>', "begin or end not known"))
    signs = {mark.sign for lane in lanes for mark in lane.marks}
    found += [(shape(kind, 9, 5), text) for kind, text in SIGN_WORDS.items() if kind in signs]
    return _laid_out(found, y, width)


def _swatch(kind: Kind) -> str:
    top, height = (3.0, 3.5) if kind in STRIPS else (0.0, 10.0)
    box = {"x": 0.0, "y": top, "width": 18.0, "height": height, "rx": 2.0}
    return tag("rect", {"class": f"bar {kind}", **box})


def _laid_out(found: Iterable[tuple[str, str]], y: float, width: float) -> tuple[str, float]:
    parts, x = [], _LEFT
    for picture, text in found:
        needed = 26 + len(text) * _LETTER_PX + 12
        if x > _LEFT and x + needed > width:
            x, y = _LEFT, y + _LINE_PX
        words = tag("text", {"class": "legend", "x": 24.0, "y": 9.0}, escaped(text))
        parts.append(tag("g", {"transform": f"translate({x:.1f} {y:.1f})"}, picture + words))
        x += needed
    return "".join(parts), y + _LINE_PX + 2
