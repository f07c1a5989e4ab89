"""One event, as it waits in a queue and as it is sent. Strangers' words in it are bounded, not yet made harmless."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vmguard.core.watchdog.events import Level
from vmguard.core.words import in_utf8

#: characters of a text and of a field that are kept
MAX_TEXT = 2000
MAX_FIELD = 500
MAX_FIELDS = 20


@dataclass(frozen=True)
class Event:
    """What a report said. ``at``: UTC, ISO."""

    at: str
    code: str
    level: Level
    text: str
    fields: Mapping[str, str] = field(default_factory=dict)
    #: tells it from all others, also after it was sent twice
    id: str = ""
    #: incidents of the target that begin with it, and that it ends
    opens: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()

    @property
    def vm(self) -> str:
        """The VM's name; empty when it is not about one."""
        return self.fields.get("name", "")

    def for_target(self, opens: tuple[str, ...], ends: tuple[str, ...]) -> Event:
        return replace(self, opens=opens, ends=ends)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "at": self.at,
            "code": self.code,
            "level": str(self.level),
            "text": self.text,
            "vm": self.vm,
            "uuid": self.fields.get("uuid", ""),
            "mount": self.fields.get("mount", ""),
            "fields": dict(self.fields),
            "opens": list(self.opens),
            "ends": list(self.ends),
        }

    @classmethod
    def from_json(cls, value: Any) -> Event:
        """Read what ``as_json`` gave. Raises ValueError."""
        try:
            return cls(
                at=str(value["at"]),
                code=str(value["code"]),
                level=Level(value["level"]),
                text=str(value["text"]),
                fields={str(key): str(item) for key, item in value["fields"].items()},
                id=str(value["id"]),
                opens=tuple(map(str, value["opens"])),
                ends=tuple(map(str, value["ends"])),
            )
        except (KeyError, TypeError, AttributeError) as problem:
            raise ValueError(f"it holds no event: {problem!r}") from None


def make(at: str, code: str, level: Level, text: str, fields: Mapping[str, str], salt: str) -> Event:
    """Return an event, cut to its bounds. ``salt``: what tells it from an equal one, such as its time and the boot."""
    kept = {name: str(value)[:MAX_FIELD] for name, value in list(fields.items())[:MAX_FIELDS]}
    told = json.dumps(in_utf8([at, code, text, kept, salt]), sort_keys=True)
    mark = hashlib.sha256(told.encode()).hexdigest()[:16]
    return Event(at, code, level, text[:MAX_TEXT], kept, mark)
