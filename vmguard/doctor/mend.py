"""Mends the NFS client id (``--fix identity``): gives this host one of its own that survives reboots."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from vmguard.adapters.linux import atomic_file
from vmguard.adapters.storage import nfs_client_id
from vmguard.doctor.facts import IdentityFacts, MountFacts


@dataclass(frozen=True)
class Plan:
    """What to do: ``write`` the file, put the id in force ``now``. ``text`` says so, and what is left to do."""

    write: bool
    now: bool
    text: str


def plan(me: IdentityFacts, mounts: list[MountFacts]) -> Plan:
    """Plan the fix. An id that was chosen for this machine is kept, whoever chose it. Pure."""
    cloned = bool(me.made_on and me.hardware and me.made_on != me.hardware)
    mounted = [mount.point for mount in mounts if mount.version.startswith("4")]
    write = cloned or not me.persistent
    now = me.unique_id is not None and not mounted and (write or me.unique_id != me.persistent)
    if not write and not now:
        left = _left(mounted) if me.unique_id not in (None, me.persistent) else ""
        return Plan(False, False, f"this host has its own NFS client id, {me.persistent} ({me.persistent_in}){left}")
    words = "a new NFS client id, because the old one was made on another machine" if cloned else "an NFS client id"
    if not write:
        return Plan(False, True, f"the NFS client id {me.persistent} comes into force now")
    if me.unique_id is None:
        return Plan(True, False, f"{words}: in force from the first mount on")
    return Plan(True, now, f"{words}: in force now" if now else f"{words}{_left(mounted)}")


def _left(mounted: list[str]) -> str:
    return (
        f"; {', '.join(mounted)} goes on under the old identity until the next boot, or until every NFS share was"
        " unmounted and this command ran again"
    )


def carry_out(chosen: Plan, me: IdentityFacts, conf: str = nfs_client_id.CONF) -> str:
    """Carry out a plan; return the id. Raises OSError."""
    unique_id = str(uuid.uuid4()) if chosen.write else me.persistent
    if chosen.write:
        atomic_file.write(conf, nfs_client_id.conf_text(unique_id, me.hardware).encode(), 0o644)
    if chosen.now:
        nfs_client_id.set_now(unique_id)
    return unique_id
