"""The unit files as systemd itself judges them (``systemd-analyze security``): how much each leaves open, and why."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.support.guard import REPOSITORY

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here"),
]

UNITS = REPOSITORY / "packaging/systemd"
#: exposure that systemd 252 counts, out of 10, with a margin for what another version weighs otherwise
EXPOSURE = {
    "vmguard.service": 5.9 + 0.2,
    "vmguard-metrics.service": 0.2 + 0.2,
    "vmguard-notify.service": 2.8 + 0.2,
}


def judged(path: str) -> tuple[float, list[str]]:
    """Return a unit's exposure, and the settings that leave something open."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", path],
        capture_output=True,
        text=True,
        check=False,
    )
    overall = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert overall is not None, done.stderr
    return float(overall[1]), re.findall(r"^✗ (\S+)", done.stdout, re.MULTILINE)


def unexplained(settings: list[str], text: str) -> list[str]:
    """Return the settings that the text of a unit neither sets nor mentions."""
    names = {setting: [word.partition("=")[0] for word in setting.split("/")] for setting in settings}
    return [setting for setting, words in names.items() if not any(f"{word}=" in text for word in words)]


@pytest.mark.parametrize("name", EXPOSURE)
def test_a_unit_leaves_no_more_open_than_its_work_needs_and_says_why(name: str) -> None:
    exposure, left_open = judged(str(UNITS / name))
    assert exposure <= EXPOSURE[name]
    assert unexplained(left_open, (UNITS / name).read_text()) == []


def test_negative_control_a_unit_without_a_sandbox_is_seen(tmp_path: str) -> None:
    path = f"{tmp_path}/bare.service"
    text = "[Service]\nExecStart=/usr/bin/vmguard daemon\n"
    with open(path, "w") as stream:
        stream.write(text)
    exposure, left_open = judged(path)
    assert exposure > 9
    assert len(unexplained(left_open, text)) > 50
