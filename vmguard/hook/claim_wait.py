"""For how long a claim tries to get a lock where the hook may wait (Proxmox VE): a dead host's lock ends by then."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmguard.adapters.linux.mountstats import NfsStatistics

#: the lease that servers have by default
_USUAL_LEASE_S = 90.0
#: added to lease and grace, at least
_LEAST_MARGIN_S = 5.0


def lease_and_grace(told: dict[str, float], mounted: dict[str, NfsStatistics]) -> float:
    """Return for how many seconds a dead host's lock can stand in the way: its lease, and a rebooted server's grace.

    No client is told the grace period. It is as long as the lease, unless the server has ``told`` it, by mount point.
    """
    waits = [told.get(point) or _by_lease(seen.lease) for point, seen in mounted.items() if seen.lease]
    return max(waits, default=_by_lease(_USUAL_LEASE_S))


def _by_lease(lease: float) -> float:
    return 2 * lease + max(_LEAST_MARGIN_S, lease / 10)
