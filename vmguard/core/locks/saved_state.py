"""Decide whether saved memory still fits its disks. Pure; imported only for a start from saved state.

Saved memory (libvirt's managed save and ``virsh save``, Proxmox's hibernation) holds what the guest believes of its
disks: its page cache, its journal's position. It may be resumed only while nobody has written to them since. In owner
records that is: the run that saved it is the last claim of each disk.

Nothing in an image of saved memory names that run, so it is found by what the last claim says, and by the time at which
the image was written, where that is known:

* another VM's claim: refused;
* this VM's claim that is known to have ended otherwise than by a save (libvirt >= 10.5 tells its hook): refused. So the
  same image is not resumed twice;
* an image that is older than the last claim: refused, whoever's it is. It was written during an earlier run;
* this VM's claim on THIS host: fits. An image that is newer than the last claim can only have been saved by that run,
  because a VM has to run to be saved, and nobody else has run it since. Its upper bound is not asked for here: editing
  an image (virsh save-image-edit) and host clean-ups change its time;
* this VM's claim on ANOTHER host, or on this one under another name: fits only if the image was written
  between claim and release. A copy without its times, or one whose time is not known, proves nothing: an image of an
  earlier run, copied to another host, must not pass by accident.

A start that failed before the VM ran leaves a claim, too (``failed``). It has written nothing, so that the claim before
it counts: a restore that did not succeed can be tried again. A disk without a record was never claimed: it fits, unless
another file lay in its place when the VM ran last (hook/claim_saved.py).

Not checked, because memory and disks are turned back together: snapshots with memory (virsh snapshot-revert, qm
rollback). No hook is told of them either.
"""

from __future__ import annotations

import datetime

from vmguard.core.locks.owner_record import Owner

#: how a run ended, in a record: saved, and never begun; libvirt's other reasons stand there as they are
SAVED = "saved"
FAILED = "failed"
#: claims of starts that failed which are looked behind; more would not be kept (owner_record.KEPT_SLOTS)
MAX_FAILED = 14
#: a record's times are whole seconds
_RESOLUTION_S = 1.0
#: between the end of a save and the release of its claim, and between the clocks of two hosts
_RELEASE_SLACK_S = 5.0
_RECORD_TIME = "%Y-%m-%dT%H:%M:%SZ"


def why_stale(claims: list[Owner], uuid: str, here: tuple[str, str], saved_at: float) -> str:
    """Return why saved memory must not be resumed on a disk, empty if it fits.

    ``claims``: the disk's last ones, the newest first. ``here``: name and machine id of this host, a clone's name is
    another. ``saved_at``: when the image was written, in seconds since the
    epoch; 0: not known.
    """
    failed = 0
    while claims and claims[0].uuid == uuid and claims[0].ended == FAILED:
        claims = claims[1:]
        failed += 1
    if failed > MAX_FAILED:
        return f"its last {failed} starts failed, and who ran it before them is not looked for any more"
    if not claims:
        return ""
    last = claims[0]
    by = f"host {last.host}, VM '{last.vm}', epoch {last.epoch}, claimed {last.claimed}"
    if last.uuid != uuid:
        return f"another VM had the disk since: {by}"
    if last.ended and last.ended != SAVED:
        return f"the VM ran again since: {by}; that run ended by {last.ended!r}, not by a save"
    if saved_at and saved_at < _seconds(last.claimed) - _RESOLUTION_S:
        mine = "; if that start failed before the VM ran: touch the image" if (last.host, last.machine) == here else ""
        return f"the VM ran again since: {by}, after the memory was saved ({_stamp(saved_at)}){mine}"
    if (last.host, last.machine) == here:
        return ""
    if not saved_at:
        return f"the VM ran elsewhere: {by}; when the memory was saved cannot be seen here"
    if not last.released:
        return f"the VM ran elsewhere: {by}; that claim was never released"
    if not _seconds(last.claimed):
        return f"the VM ran elsewhere: {by}; when, cannot be read"
    if saved_at > _seconds(last.released) + _RELEASE_SLACK_S:
        return (
            f"the VM ran elsewhere: {by}, released {last.released};"
            f" the memory has a later time ({_stamp(saved_at)}): a copy keeps its time with cp -p or scp -p"
        )
    return ""


def _seconds(stamp: str) -> float:
    """Return a record's time in seconds since the epoch, 0 when it cannot be parsed."""
    try:
        return datetime.datetime.strptime(stamp, _RECORD_TIME).replace(tzinfo=datetime.UTC).timestamp()
    except ValueError:
        return 0.0


def _stamp(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime(_RECORD_TIME)
