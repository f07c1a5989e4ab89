"""A lab of real kernels: User Mode Linux guests on a bridge of their own. See lab.py; test_lab.py proves it."""

from tests.lab.channel import Job
from tests.lab.errors import CommandFailed, GuestDown, GuestTimeout, LabError, LabUnavailable, Result
from tests.lab.ganesha import GaneshaServer
from tests.lab.guest import Guest
from tests.lab.hypervisor import Hypervisor
from tests.lab.lab import Lab
from tests.lab.locker import Locker
from tests.lab.nfs import NfsClient, NfsServer, Storage
from tests.lab.pair import Pair

__all__ = [
    "CommandFailed",
    "GaneshaServer",
    "Guest",
    "GuestDown",
    "GuestTimeout",
    "Hypervisor",
    "Job",
    "Lab",
    "LabError",
    "LabUnavailable",
    "Locker",
    "NfsClient",
    "NfsServer",
    "Pair",
    "Result",
    "Storage",
]
