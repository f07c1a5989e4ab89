"""`vmguard audit` on a node: from its files to what the command prints."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.pve.place import OTHER, Place
from vmguard.core.locks.owner_record import Owner, slot
from vmguard.core.reports.pve_audit import HOOK


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.process
def test_a_node_tells_of_the_whole_cluster(place: Place) -> None:
    place.vm("100")
    place.vm("101", f"hookscript: {HOOK}", node=OTHER)
    place.vm("102", "scsi0: store:102/link.raw", node=OTHER, disk=False)
    (place.store / "images/102").mkdir()
    os.link(place.store / "images/100/vm-100-disk-0.raw", place.store / "images/102/link.raw")
    records = place.store / "images/100/.vmguard"
    records.mkdir()
    owner = Owner(1, host="stranger", vm="web", path="/x/vm-100-disk-0.raw", claimed="2026-01-01T00:00:00Z")
    (records / "17.owner").write_bytes(slot(owner))
    place.conf("103").write_bytes(bytes(10))
    found = place.json("audit")
    assert found["exit"] == 2
    assert [(vm["vmid"], vm["node"], vm["enrolled"]) for vm in found["vms"]] == [
        ("101", OTHER, True),
        ("102", OTHER, False),
        ("100", place.name, False),
    ]
    assert sorted(finding["kind"] for finding in found["findings"]) == [
        *("foreign", "not-enrolled", "not-enrolled", "shared-file", "unknown"),
    ]
    answer = place.vmguard("audit")
    assert "CRITICAL: one file, several VMs: VM 100 on" in answer.out
    assert "3 VMs on 2 nodes, 1 enrolled, 5 findings" in answer.out


@pytest.mark.process
def test_enabled_everywhere_it_has_nothing_to_say(place: Place) -> None:
    place.vm("100")
    with place.guard:
        assert place.json("audit")["status"] == "WARNING"
        place.vmguard("enable", "proxmox", "--all")
    answer = place.vmguard("audit")
    assert (answer.status, answer.out) == (0, "OK: 1 VMs on 2 nodes, 1 enrolled, nothing to complain of\n")
    (place.snippets / "vmguard").chmod(0o644)
    assert "is not executable" in place.vmguard("audit").out


@pytest.mark.process
def test_no_cluster_is_said(place: Place) -> None:
    shutil.rmtree(place.pve / "nodes")
    answer = place.vmguard("audit")
    assert answer.status == 3
    assert "knows no node" in answer.err
