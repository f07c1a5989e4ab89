"""The messages of ``adopt``: which VMs are meant, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vmguard.protocol.wire import Message

#: word in ``result`` -> what it means
RESULTS = {
    "adopted": "it was unguarded and is guarded now",
    "guarded": "it was guarded already",
    "conflict": "somebody else has the lock of one of its files",
    "pending": "the storage has not answered yet; the daemon goes on trying",
    "would-adopt": "it is unguarded; nothing was done (dry run)",
    "nothing": "it has no file open that could be guarded",
    "stranger": "it is an ordinary user's, and only says which VM it is: adopt it by its pid, if it shall be guarded",
    "gone": "it ended just now",
}
_DEFAULT_WAIT_S = 10.0


@dataclass(frozen=True)
class AdoptRequest:
    """Which VMs are to be guarded."""

    #: names, uuids or VMIDs
    names: tuple[str, ...] = ()
    #: every QEMU of this host
    everything: bool = False
    #: one QEMU process; 0: none
    pid: int = 0
    #: only tell what would be done
    dry_run: bool = False
    #: seconds for which the answer may wait for the storage
    seconds: float = _DEFAULT_WAIT_S

    def as_json(self) -> dict[str, Any]:
        return {
            "names": list(self.names),
            "all": self.everything,
            "pid": self.pid,
            "dry_run": self.dry_run,
            "seconds": self.seconds,
        }

    @classmethod
    def from_message(cls, message: Message) -> AdoptRequest:
        """Read a request that the table has accepted (vmguard/protocol/requests.py)."""
        return cls(
            names=tuple(message.get("names") or ()),
            everything=message.get("all") is True,
            pid=message.get("pid") or 0,
            dry_run=message.get("dry_run") is True,
            seconds=message.get("seconds") or _DEFAULT_WAIT_S,
        )


@dataclass(frozen=True)
class AdoptResult:
    """What became of one VM."""

    #: as in the answer to ``status``; of a VM that is not guarded, what is known
    vm: dict[str, Any]
    #: a key of RESULTS
    result: str
    why: str = ""

    @property
    def name(self) -> str:
        return str(self.vm["name"])

    @property
    def uuid(self) -> str:
        return str(self.vm["uuid"])

    def as_json(self) -> dict[str, Any]:
        return {**self.vm, "result": self.result, "why": self.why}
