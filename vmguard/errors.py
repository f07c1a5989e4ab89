"""Every error that vmguard raises on purpose.

::

    VmguardError                 exit 3, something could not be done or known
    ├── BadInput                 the input is invalid: XML, paths, arguments
    │   └── ConfigError          the configuration is invalid; names file, line and key
    ├── PlanError                the VM's files cannot be determined (missing disk, loop in a chain)
    ├── LockUnavailable          the file cannot be locked here at all (ENOLCK, EOPNOTSUPP, a mount with local locks)
    ├── LockConflict             another open file description holds a conflicting lock
    ├── StorageTimeout           the storage did not answer within the deadline
    ├── ServerError              a storage server cannot be asked, or what it says is not understood
    ├── DaemonError              the daemon cannot be reached, or refused
    │   └── DaemonForbidden      this user or program may not use its socket; whether it runs is not known
    └── WireError                a message is malformed, too large, or of another version

Only the command line and the hooks turn these into an exit status; everything else raises. A message is a lowercase
sentence without a full stop; ``hint`` says what to do now. Plain classes: the hook imports this on its hot path.

Words of strangers stand in messages. So a message is one line, whatever is in it, and has more lines only where its
author wants them (``details``): no name can add a line that reads like one of ours.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self


class VmguardError(Exception):
    """Base of every error that vmguard raises on purpose.

    ``exit_code`` follows the monitoring convention: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
    """

    exit_code = 3

    def __init__(self, message: str, hint: str = "", details: Iterable[str] = ()) -> None:
        self.message = "\n".join(map(_on_one_line, (message, *details)))
        super().__init__(self.message)
        self.hint = _on_one_line(hint)

    @classmethod
    def passed_on(cls, message: str, hint: str = "") -> Self:
        """Make the error again that another process of ours raised: its message has the lines that it shall have."""
        first, *details = message.split("\n")
        return cls(first, hint, details)


def _on_one_line(text: str) -> str:
    return text.replace("\n", "\\n")


class BadInput(VmguardError):
    """The input is invalid: XML, a path, an argument."""


class ConfigError(BadInput):
    """The configuration is invalid. The message begins with ``file:line: key``."""


class PlanError(VmguardError):
    """The files of a VM cannot be determined, so none of them can be guarded."""

    exit_code = 2

    def __init__(self, message: str, hint: str = "", path: str = "") -> None:
        super().__init__(message, hint)
        self.path = path


class LockUnavailable(VmguardError):
    """The file cannot be locked here at all."""

    exit_code = 2

    def __init__(self, path: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.path = path


class LockConflict(VmguardError):
    """Another open file description holds a conflicting lock."""

    exit_code = 2

    def __init__(self, path: str, message: str = "", hint: str = "", details: Iterable[str] = ()) -> None:
        super().__init__(message or f"{path} is locked by another open file description", hint, details)
        self.path = path


class StorageTimeout(VmguardError):
    """The storage did not answer in time. Nothing is known about the lock."""


class ServerError(VmguardError):
    """A storage server cannot be asked about itself, or its answer is not understood. Nothing depends on it."""


class DaemonError(VmguardError):
    """The daemon cannot be reached, or refused."""


class DaemonForbidden(DaemonError):
    """This process may not use the daemon's socket. Whether the daemon runs is not known."""


class WireError(VmguardError):
    """A message on the socket is malformed, too large, or of another version."""
