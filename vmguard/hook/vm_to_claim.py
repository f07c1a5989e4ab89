"""What the two processes of a claim share: the VM, the time limits, and the pipe from the child to the hook."""

from __future__ import annotations

import os
import time

from vmguard.core.lean_json import encode
from vmguard.errors import VmguardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from vmguard.core.sources.domain_xml import Domain

    class StorageMounted(Protocol):
        """The storages under a VM, for a hypervisor that calls its hook before they are mounted."""

        def wait(self, seconds: float, say: Callable[[str], None]) -> None:
            """Wait until all of them are mounted. Raise VmguardError when they are not in time."""

        def judge(self, path: str, device: int) -> None:
            """Raise VmguardError when an opened file does not lie on its storage: the VM must not start."""


#: for everything until the daemon's settings say otherwise
FIRST_DEADLINE_S = 20.0
#: beyond the allowed wait, for a lock call that hangs in the kernel (grace period, dead server)
LOCK_SLACK_S = 1.0
#: between two progress messages
PROGRESS_INTERVAL_S = 10.0


def boottime() -> float:
    """Return CLOCK_BOOTTIME in seconds, without the import of an adapter."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class VmToClaim:
    """A VM whose files are to be claimed: what the hypervisor told its hook."""

    __slots__ = (
        "child",
        "domain",
        "hypervisor",
        "name",
        "saved_image",
        "source",
        "speak",
        "start_anew",
        "storage_mounted",
        "unique_id",
        "uuid",
    )

    def __init__(
        self,
        hypervisor: str,
        domain: Domain,
        storage_mounted: StorageMounted | None = None,
        speak: Callable[[str], None] | None = None,
        source: str = "",
        saved_image: str | None = None,
        start_anew: str = "",
        unique_id: bool = True,
    ) -> None:
        self.hypervisor = hypervisor
        self.name = domain.name
        self.uuid = domain.uuid
        self.domain = domain
        #: None where the hypervisor mounts before it calls its hook
        self.storage_mounted = storage_mounted
        #: shows progress messages, where somebody reads them while the hook runs
        self.speak = speak
        #: the node that the VM migrates from while it runs, where the hypervisor says so; else empty
        self.source = source
        #: the file of the saved memory that it starts from, empty if that is no file, where the hypervisor names it;
        #: None: it starts anew
        self.saved_image = saved_image
        #: how to start it without its saved memory, for people
        self.start_anew = start_anew
        #: no other VM of any host has its id; a VMID is unique in its cluster alone, and a share may serve two
        self.unique_id = unique_id
        #: the pid of the claim's child while there is one
        self.child = 0

    @property
    def id(self) -> str:
        """Return the VM's id, as the daemon has it."""
        return f"{self.hypervisor}-{self.uuid}"

    def identity(self) -> dict[str, str]:
        """Return the keys by which each request names its VM."""
        return {"hypervisor": self.hypervisor, "name": self.name, "uuid": self.uuid}


class ProgressPipe:
    """The child's end of the pipe to the hook: its stages, each with its deadline, and its verdict."""

    __slots__ = ("_fd", "_parent", "seconds")

    def __init__(self, fd: int, parent: int) -> None:
        self._fd = fd
        self._parent = parent
        #: the time limit of a stage that names none of its own
        self.seconds = FIRST_DEADLINE_S

    def say(self, report: dict[str, Any]) -> None:
        """Send one report, a line of JSON."""
        os.write(self._fd, encode(report).encode() + b"\n")

    def stage(self, what: str, seconds: float | None = None) -> None:
        """Say what is done now, and after how many seconds the hook may give it up."""
        self.say({"stage": what, "seconds": self.seconds if seconds is None else seconds})

    def note(self, text: str) -> None:
        """Send a message for people. Raise VmguardError when the hook is gone: nobody waits for this claim any more."""
        self.check()
        self.say({"note": text})

    def refuse(self, problem: VmguardError) -> None:
        """Send the verdict that the VM must not start."""
        self.say({"refused": problem.message, "hint": problem.hint})

    def check(self) -> None:
        """Raise VmguardError when the hook is gone."""
        if os.getppid() != self._parent:
            raise VmguardError("the hook is gone")

    def close(self) -> None:
        os.close(self._fd)
