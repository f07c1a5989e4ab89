"""The words that a setting may have."""

from __future__ import annotations

from enum import StrEnum


class PolicyAction(StrEnum):
    """What to do about something that cannot be guarded."""

    ALLOW = "allow"
    WARN = "warn"
    REFUSE = "refuse"


class SessionVms(StrEnum):
    """What to do with VMs of ordinary users, which cannot be guarded."""

    LOCAL = "local"
    ALLOW = "allow"
    REFUSE = "refuse"


class LocalFiles(StrEnum):
    """What to do with disks on this host's own file systems."""

    LOCK = "lock"
    IGNORE = "ignore"


class Window(StrEnum):
    """Whether a byte window that others lock on the same host is left free."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class LogLevel(StrEnum):
    """The least level that the daemon logs."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    DEBUG = "debug"


class ServerKind(StrEnum):
    """What serves NFS on a storage server."""

    KNFSD = "knfsd"


class Transport(StrEnum):
    """How the probe program gets to a storage server."""

    SSH = "ssh"
    LOCAL = "local"
    COMMAND = "command"
