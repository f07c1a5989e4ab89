"""The last good configuration: what is kept of one reads as the same, and stands in only for the files of /etc."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmguard import config
from vmguard.config import last_good

EVERYTHING = """\
hook: {wait: 5s, daemon_absent: allow}
windows: {qemu: on}
daemon: {run_dir: "/run/with space: #x"}
notify: {command: "/bin/tell 'all of them' \\"now\\""}
vms:
  "web \\U0001F600 \\"x\\" \\\\ é: #": {on_lost: freeze, conflict_grace: 1m30s}
  "no": {log_only: yes}
  "*": {after_fence: restart}
"""


def file(folder: Path, text: str, name: str = "vmguard.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("text", ["", "vms: {}\n", "hook: {wait: 5s}\n", EVERYTHING])
def test_what_is_kept_reads_as_the_same(tmp_path: Path, text: str) -> None:
    chosen = config.load([file(tmp_path, text)])
    kept = file(tmp_path, last_good.text(chosen), "kept.yaml")
    assert config.load([kept]) == chosen


def test_only_what_was_set_is_kept(tmp_path: Path) -> None:
    assert last_good.text(config.load([file(tmp_path, "hook: {wait: 3s}\n")])) == "hook:\n  wait: 3s\n"
    assert last_good.text(config.Config()) == ""


def test_files_that_were_named_are_wanted_themselves(tmp_path: Path) -> None:
    wrong, kept = file(tmp_path, "hook: {wait: soon}\n"), file(tmp_path, "hook: {wait: 5s}\n", "kept.yaml")
    with pytest.raises(config.BadConfig, match="soon"):
        config.load_or_kept([wrong], kept)
    assert not last_good.is_usable([wrong], kept)


def test_a_kept_one_with_a_mistake_is_of_no_use(tmp_path: Path) -> None:
    assert last_good.is_usable(None, file(tmp_path, "hook: {wait: 5s}\n", "kept.yaml"))
    assert not last_good.is_usable(None, file(tmp_path, "hook: {wiat: 5s}\n", "kept.yaml"))
    assert not last_good.is_usable(None, str(tmp_path / "none"))
