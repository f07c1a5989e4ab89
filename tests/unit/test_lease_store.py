"""How old the lease of each mount is, told from one daemon to the next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vmguard.adapters.linux import host_identity
from vmguard.daemon.watch import lease_store
from vmguard.daemon.watch.lease_store import FILE, LeaseStore

NAS = ("/srv/vm", 0x2F)
NEVER: dict[tuple[str, int], float] = {}


def test_the_next_daemon_knows_what_the_one_before_knew(tmp_path: Path) -> None:
    LeaseStore(str(tmp_path)).keep({NAS: 100.25, ("/srv/with space", 0x30): 7.0})
    after = LeaseStore(str(tmp_path))
    assert after.before(*NAS) == 100.25
    assert after.before("/srv/with space", 0x30) == 7.0


def test_another_file_system_at_the_same_place_is_another_mount(tmp_path: Path) -> None:
    LeaseStore(str(tmp_path)).keep({NAS: 100.25})
    assert LeaseStore(str(tmp_path)).before(NAS[0], 0x31) is None


def test_it_counts_in_one_boot_only(tmp_path: Path) -> None:
    LeaseStore(str(tmp_path)).keep({NAS: 100.25})
    text = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(text.replace(host_identity.boot_id(), "another"))
    assert LeaseStore(str(tmp_path)).before(*NAS) is None


def test_a_daemon_killed_before_it_finds_the_locks_again_loses_nothing(tmp_path: Path) -> None:
    LeaseStore(str(tmp_path)).keep({NAS: 100.25})
    LeaseStore(str(tmp_path)).keep(NEVER)
    assert LeaseStore(str(tmp_path)).before(*NAS) == 100.25


def test_a_mount_that_comes_into_use_much_later_begins_afresh(tmp_path: Path) -> None:
    LeaseStore(str(tmp_path)).keep({NAS: 100.25})
    times = [1000.0]
    after = LeaseStore(str(tmp_path), lambda: times[-1])
    times.append(1000.0 + 2 * lease_store._TAKE_OVER_S)
    assert after.before(*NAS) is None
    after.keep(NEVER)
    assert json.loads((tmp_path / FILE).read_text())["confirmed"] == {}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"confirmed": 3}', '{"boot": "BOOT", "confirmed": {"0x2f /srv/vm": "x"}}']
)
def test_a_file_that_is_not_understood_is_no_knowledge(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text.replace("BOOT", host_identity.boot_id()))
    assert LeaseStore(str(tmp_path)).before(*NAS) is None


def test_a_file_that_cannot_be_written_leaves_what_is_older(tmp_path: Path) -> None:
    folder, away = tmp_path / "run", tmp_path / "away"
    folder.mkdir()
    kept = LeaseStore(str(folder))
    kept.keep({NAS: 100.25})
    folder.rename(away)
    kept.keep({NAS: 200.0})
    away.rename(folder)
    assert LeaseStore(str(folder)).before(*NAS) == 100.25
    kept.keep({NAS: 200.0})
    assert LeaseStore(str(folder)).before(*NAS) == 200.0
