"""The words that a setting may have."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What the admin's policy makes of something that cannot be guarded."""

    ALLOW = "allow"
    WARN = "warn"
    REFUSE = "refuse"


class LocalFiles(StrEnum):
    LOCK = "lock"
    IGNORE = "ignore"


class Window(StrEnum):
    """Whether a byte window that others lock on the same host is left free."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class LogLevel(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    DEBUG = "debug"
