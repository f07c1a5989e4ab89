"""How a row of the table of settings is written: a dataclass field with its kind, default and help."""

from __future__ import annotations

from dataclasses import field
from typing import Any, TypeVar

from vmguard.config.values import Kind

T = TypeVar("T")


def setting(kind: Kind[Any], default: T, help: str, restart: bool = False) -> T:
    """Return the field for one key. ``restart``: a change takes effect only when the daemon is restarted."""
    return field(default=default, metadata={"kind": kind, "help": help, "restart": restart})


def section(section: type[T], help: str) -> T:
    """Return the field for a section, which is a dataclass of keys."""
    return field(default_factory=section, metadata={"help": help})
