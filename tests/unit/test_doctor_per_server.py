"""What the doctor says of several mounts of one server, and of a share that it may only read."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.test_doctor_judges import IDENTITY, MOUNT, SCRATCH, all_findings, mount
from vmguard.doctor.facts import ScratchFacts, ShareFacts
from vmguard.doctor.finding import Level
from vmguard.doctor.judge_storage import judge_scratch, judge_share
from vmguard.doctor.per_server import per_server


def test_a_read_only_share_is_not_called_broken() -> None:
    found = all_findings(mount=mount("ro"), scratch=ScratchFacts(error=("EROFS", "Read-only file system")))
    assert {finding.check for finding in found if finding.level is not Level.OK} == {"mount.writable"}


def test_what_is_wrong_with_a_server_is_told_once_and_not_for_each_of_its_mounts() -> None:
    mounts = [replace(MOUNT, point=f"/srv/{name}", source=f"nas:/{name}") for name in ("a", "b")]
    hung = [finding for one in mounts for finding in judge_scratch(one, ScratchFacts(hung=5.0))]
    fine = [finding for one in mounts for finding in judge_scratch(one, SCRATCH)]
    [told] = [finding for finding in per_server([*hung, *fine], mounts) if finding.level is not Level.OK]
    assert told.subject == "nas (/srv/a, /srv/b)"
    assert told.text.startswith("nas did not answer within 5 s")
    assert len(per_server([*hung, *fine], mounts)) == 1 + len(fine)


def test_control_what_two_servers_or_two_mounts_have_of_their_own_stays_apart() -> None:
    one, other = replace(MOUNT, point="/srv/a"), replace(MOUNT, point="/srv/b", source="other:/vm")
    hung = [finding for mount in (one, other) for finding in judge_scratch(mount, ScratchFacts(hung=5.0))]
    assert len(per_server(hung, [one, other])) == 2
    full = [replace(MOUNT, point=f"/srv/{name}") for name in ("a", "b")]
    shares = (ShareFacts(free_space=0.01), ShareFacts(free_space=0.02))
    scarce = [f for mount, share in zip(full, shares, strict=True) for f in judge_share(mount, share, IDENTITY)]
    told = [finding for finding in per_server(scarce, full) if finding.level is not Level.OK]
    assert [finding.subject for finding in told] == ["/srv/a", "/srv/b"]


def test_an_export_that_came_late_is_cured_by_the_order_of_units() -> None:
    (found,) = judge_scratch(MOUNT, ScratchFacts(error=("ESTALE", "Stale file handle")))
    assert "RequiresMountsFor=" in found.mend
    assert "umount -l /srv/vm && mount /srv/vm" in found.mend
    (other,) = judge_scratch(MOUNT, ScratchFacts(error=("EIO", "I/O error")))
    assert "RequiresMountsFor=" not in other.mend, "control"


def test_a_server_that_does_not_know_delegations_of_directories_is_cured_on_the_host() -> None:
    (found,) = judge_scratch(MOUNT, ScratchFacts(error=("EREMOTEIO", "Remote I/O error")))
    assert "directory_delegations=N" in found.mend
    (other,) = judge_scratch(MOUNT, ScratchFacts(error=("EIO", "I/O error")))
    assert "directory_delegations" not in other.mend, "control"
