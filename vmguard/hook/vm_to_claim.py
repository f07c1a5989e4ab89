"""What the two processes of a claim share: whose disks it is about, and the words from the child to the hook."""

from __future__ import annotations

import os

from vmguard.core.lean_json import encode
from vmguard.errors import VmguardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from vmguard.core.sources.domain_xml import Domain

    class Ground(Protocol):
        """The storages under a VM, where the hypervisor's hook comes before they are mounted."""

        def wait(self, seconds: float, say: Callable[[str], None]) -> None:
            """Until they are there. Raises VmguardError."""

        def judge(self, path: str, device: int) -> str:
            """Why an opened file must not be locked. Raises VmguardError when the VM must not start."""


#: seconds for everything until the daemon's settings say otherwise
FIRST_DEADLINE = 20.0
#: seconds beyond the allowed wait for a lock call that hangs in the kernel (grace period, dead server)
LOCK_SLACK = 1.0
#: seconds between two words to people who can see that the hook is at work
SAY_EVERY = 10.0


class Subject:
    """The VM to claim: what the hypervisor told its hook."""

    __slots__ = ("child", "domain", "ground", "hypervisor", "name", "source", "speak", "uuid")

    def __init__(
        self,
        hypervisor: str,
        domain: Domain,
        ground: Ground | None = None,
        speak: Callable[[str], None] | None = None,
        source: str = "",
    ) -> None:
        self.hypervisor = hypervisor
        self.name = domain.name
        self.uuid = domain.uuid
        self.domain = domain
        self.ground = ground
        #: tells people how the wait goes, where somebody reads it while the hook runs
        self.speak = speak
        #: the node that it migrates from while it runs, where the hypervisor says so
        self.source = source
        #: the pid of the claim's child while there is one
        self.child = 0

    def who(self) -> dict[str, str]:
        """The VM, as the daemon's protocol names it."""
        return {"hypervisor": self.hypervisor, "name": self.name, "uuid": self.uuid}


class Reporter:
    """The child's side of the pipe."""

    __slots__ = ("_fd", "_parent", "seconds")

    def __init__(self, fd: int, parent: int) -> None:
        self._fd = fd
        self._parent = parent
        self.seconds = FIRST_DEADLINE

    def say(self, report: dict[str, Any]) -> None:
        os.write(self._fd, encode(report).encode() + b"\n")

    def stage(self, what: str, seconds: float | None = None) -> None:
        self.say({"stage": what, "seconds": self.seconds if seconds is None else seconds})

    def note(self, text: str) -> None:
        """A word for people. Raises VmguardError when the hook is gone: nobody waits for this claim any more."""
        self.check()
        self.say({"note": text})

    def check(self) -> None:
        if os.getppid() != self._parent:
            raise VmguardError("the hook is gone")

    def close(self) -> None:
        os.close(self._fd)
