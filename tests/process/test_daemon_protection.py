"""How a running daemon is protected: memory, scheduling, descriptors; and that it says what it lacks."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.guard import Guard, eventually


def test_the_daemon_is_protected_and_says_what_it_cannot_do(tmp_path: Path) -> None:
    watch = {"host_fence": "watchdog", "watchdog_device": str(tmp_path / "none")}
    with Guard(tmp_path, daemon={"realtime": "yes"}, watch=watch) as guard:
        status = Path(f"/proc/{guard.pid}/status").read_text()
        locked = next(line for line in status.splitlines() if line.startswith("VmLck")).split()[1]
        assert int(locked) > 1000
        score = Path(f"/proc/{guard.pid}/oom_score_adj").read_text().strip()
        assert score == "-999" or "less protected than it should be" in guard.log
        files = next(
            line for line in Path(f"/proc/{guard.pid}/limits").read_text().splitlines() if "open files" in line
        )
        assert files.split()[3] == files.split()[4]  # the soft limit is the hard one
        assert int(files.split()[3]) >= 65536 or "can be open" in guard.log
        assert os.sched_getscheduler(guard.pid) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR
        assert eventually(lambda: "could not fire" in guard.log)
