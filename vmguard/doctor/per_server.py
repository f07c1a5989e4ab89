"""One finding for each server, where several of its mounts have the same one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vmguard.doctor.facts import MountFacts
from vmguard.doctor.finding import Finding, Level


def per_server(findings: Sequence[Finding], mounts: Sequence[MountFacts]) -> list[Finding]:
    """Join what is wrong with several mounts of one server in the same words; what is fine stays as it is."""
    by_point = {mount.point: mount for mount in mounts}
    joined: dict[object, list[Finding]] = {}
    for number, finding in enumerate(findings):
        mount = by_point.get(finding.subject)
        alike = mount is not None and finding.level is not Level.OK
        key = (finding.check, finding.level, mount.server, _text(finding, mount)) if mount and alike else number
        joined.setdefault(key, []).append(finding)
    return [_join(same, by_point) for same in joined.values()]


def _text(finding: Finding, mount: MountFacts) -> str:
    """Return what a finding says of the server, whichever of its mounts it is about."""
    return finding.text.replace(mount.source, mount.server).replace(mount.point, "it")


def _join(same: Sequence[Finding], by_point: dict[str, MountFacts]) -> Finding:
    first = same[0]
    if len(same) == 1:
        return first
    mount = by_point[first.subject]
    subject = f"{mount.server} ({', '.join(finding.subject for finding in same)})"
    mends = dict.fromkeys(finding.mend for finding in same if finding.mend)
    return replace(first, subject=subject, text=_text(first, mount), mend="; ".join(mends))
