"""The mark of a host whose admin has not put vmguard to use: nothing is taken up there."""

from __future__ import annotations

from pathlib import Path

from vmguard.adapters.linux import first_use
from vmguard.config.settings import Config
from vmguard.daemon import wiring
from vmguard.daemon.runtime.loop import Loop


def test_disable_leaves_the_mark_and_enable_removes_it(tmp_path: Path) -> None:
    run_dir = str(tmp_path / "run")
    assert not first_use.is_awaited(run_dir)
    first_use.begin(run_dir)
    first_use.end(run_dir)
    assert first_use.is_awaited(run_dir)
    first_use.begin(run_dir)
    assert not first_use.is_awaited(run_dir)


def test_the_packages_daemon_has_its_mark_where_it_outlives_a_boot() -> None:
    assert first_use.mark("/run/vmguard") == "/var/lib/vmguard/not-enabled"


def test_a_host_with_the_mark_takes_nothing_up(tmp_path: Path) -> None:
    loop = Loop()
    parts = wiring.Parts(loop, str(tmp_path), Config)
    assert parts._unguarded().take_up
    first_use.end(str(tmp_path))
    assert not parts._unguarded().take_up
    loop.close()
