"""The line of `systemctl status`, and the VMs that were killed lately."""

from __future__ import annotations

import pytest

from vmguard.core.reports.fenced_vms import SHOWN_FOR_S, FencedVm, lately
from vmguard.core.reports.unit_line import VmLine, unit_line

RUNS, FROZEN, DYING = (VmLine(name, "running", name == "ice", name == "doomed") for name in ("web", "ice", "doomed"))
KILLED = FencedVm("2026-11-20T15:06:11Z", "db", "u")


@pytest.mark.parametrize(
    ("vms", "fenced", "maintenance", "broken", "line"),
    [
        ([], [], None, False, "guarding 0 VMs"),
        ([RUNS], [], None, False, "guarding 1 VM"),
        ([RUNS, FROZEN], [], None, False, "CRITICAL: 1 VM frozen (ice); vmguard status; guarding 2 VMs"),
        (
            [DYING, VmLine("both", "conflict", True, False)],
            [KILLED],
            None,
            False,
            "CRITICAL: 1 VM being killed (fenced) (doomed), 1 VM in conflict with another host (both), "
            "1 VM killed (fenced) in the last day (db); vmguard status; guarding 2 VMs",
        ),
        ([], [], "disks\nmove", False, "DISARMED, no VM is frozen or fenced: disks\\nmove; guarding 0 VMs"),
        (
            [],
            [],
            None,
            True,
            "the configuration has a mistake, the last good one is in force: vmguard config check; guarding 0 VMs",
        ),
        ([FROZEN] * 4, [], None, False, "CRITICAL: 4 VMs frozen; vmguard status; guarding 4 VMs"),
    ],
)
def test_the_worst_comes_first(
    vms: list[VmLine], fenced: list[FencedVm], maintenance: str | None, broken: bool, line: str
) -> None:
    assert unit_line(vms, fenced, maintenance, broken) == line


def test_a_line_has_an_end() -> None:
    assert len(unit_line([VmLine("x" * 300, "running", True, False)], [], "y" * 5000, True)) <= 400


def entry(boottime: object, code: str = "fence.done", fields: object = None) -> dict[str, object]:
    fields = {"name": "db", "uuid": "u"} if fields is None else fields
    return {"at": "then", "boottime": boottime, "code": code, "fields": fields}


def test_a_kill_is_shown_for_a_day_or_until_it_is_acknowledged() -> None:
    assert lately([entry(100.0)], 200.0, 0.0) == [FencedVm("then", "db", "u")]
    assert lately([entry(100.0)], 100.0 + SHOWN_FOR_S, 0.0) == []
    assert lately([entry(100.0)], 200.0, 150.0) == []
    assert lately([entry(100.0), entry(160.0)], 200.0, 150.0) == [FencedVm("then", "db", "u")]


@pytest.mark.parametrize("bad", [entry("x"), entry(100.0, fields=[]), {}, entry(100.0, "vm.fence")])
def test_what_is_no_kill_is_none(bad: dict[str, object]) -> None:
    assert lately([bad], 200.0, 0.0) == []
