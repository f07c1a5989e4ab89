"""VMs that were killed lately. They stay visible until a person has acknowledged them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: what the history says when a fence is complete
CODE = "fence.done"
#: for which a kill is shown that nobody acknowledges
SHOWN_FOR_S = 86400.0


@dataclass(frozen=True)
class FencedVm:
    """A VM that a fence has killed. ``at`` is UTC, ISO; ``uuid`` is Proxmox's VMID there."""

    at: str
    name: str
    uuid: str

    @property
    def sentence(self) -> str:
        return f"VM '{self.name}' was killed by a fence at {self.at}"

    def as_json(self) -> dict[str, str]:
        return {"at": self.at, "name": self.name, "uuid": self.uuid}


def lately(history: Iterable[Mapping[str, object]], now: float, acknowledged: float) -> list[FencedVm]:
    """Return the VMs that were killed in the last day and after ``acknowledged``, the oldest first.

    ``history``: its entries. ``now`` and ``acknowledged`` are seconds on CLOCK_BOOTTIME, as the entries have them.
    """
    found = []
    for entry in history:
        boottime, fields = entry.get("boottime"), entry.get("fields")
        if entry.get("code") != CODE or not isinstance(boottime, int | float) or not isinstance(fields, Mapping):
            continue
        if acknowledged < boottime and now - boottime < SHOWN_FOR_S:
            name = str(fields.get("name") or fields.get("vm") or "?")
            found.append(FencedVm(str(entry.get("at", "?")), name, str(fields.get("uuid", ""))))
    return found
