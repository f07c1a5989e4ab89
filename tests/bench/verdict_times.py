"""How long the verdicts take: many guarded writers on one mount, a storage reboot, and the time from the server's first
answer until the last of them goes on.

    tests/bench/verdict 500
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from tests.bench.writers import WRITER_SOURCE
from tests.lab import Lab
from tests.lab.guest import PYTHON, REPOSITORY
from tests.support.guarded_guests import SHARE, Guarded
from tests.support.watched_guests import LEASE, codes, history, wait_until

#: seconds that the storage is off
DOWN = 12.0


@dataclass(frozen=True)
class Times:
    """Seconds. ``freezing``: from the first to the last freeze; ``verdicts``: from the first answer to each thaw."""

    writers: int
    claims: float
    #: claims that were refused once
    again: int
    freezing: float
    verdicts: tuple[float, ...]

    def __str__(self) -> str:
        half, last = self.verdicts[len(self.verdicts) // 2], self.verdicts[-1]
        return (
            f"{self.writers} guarded writers on one mount, storage off for {DOWN:.0f} s: all frozen within"
            f" {self.freezing:.2f} s; verdict after the server's first answer: half of them {half:.2f} s, all"
            f" {last:.2f} s (claims: {self.claims / self.writers * 1000:.0f} ms each, {self.again} refused once)"
        )


def measure(count: int) -> Times:
    """Raises AssertionError when a writer had an error, or was not frozen, judged and thawed."""
    with Lab() as lab:
        server = lab.nfs_server(lease=LEASE, grace=LEASE)
        node = Guarded(lab.hypervisor("hyp-a", mem="2G"), "hook: {wait: 30s, timeout: 60s}\n")
        node.mount(server)
        node.start_daemon()
        source = node.host.share / "qemu-writer.c"  # a name under which the daemon looks for VMs
        source.write_text(WRITER_SOURCE)
        subprocess.run(["gcc", "-O2", "-static", "-o", source.with_suffix(""), source], check=True)
        began = time.monotonic()
        writers = node.host.spawn(
            [PYTHON, f"{REPOSITORY}/tests/bench/writers.py", str(count), SHARE, "/lab/qemu-writer"]
        )
        writers.wait_for("ready", 60 + 3 * count)
        claims = time.monotonic() - began
        wait_until("all are pinned and kept", lambda: _kept(node) == count, 60, node.log)
        node.host.run("sync")
        server.reboot(down=DOWN)
        # Not looked at all the time: half a megabyte of history would share the processor with the verdicts.
        deadline = time.monotonic() + 120
        while codes(node).count("vm.thaw") < count:
            assert time.monotonic() < deadline, node.log()
            time.sleep(10)
        before, after = writers.output()[0].split("ready\n")
        assert after == "", writers.output()
        print(before, end="")
        return times(history(node), count, claims, before.count("again "))


def times(entries: list[dict[str, Any]], count: int, claims: float, again: int) -> Times:
    at = {code: [float(entry["boottime"]) for entry in entries if entry["code"] == code] for code in _CODES}
    freezes, thaws = sorted(at["vm.freeze"]), sorted(at["vm.thaw"])
    answer = max(second for second in at["mount.recovering"] if second <= thaws[0])
    assert len(freezes) == count
    return Times(count, claims, again, freezes[-1] - freezes[0], tuple(second - answer for second in thaws))


_CODES = ("vm.freeze", "vm.thaw", "mount.recovering")


def _kept(node: Guarded) -> int:
    vms = node.status()
    return sum(
        bool(vm["watch"]) and {lock["verdict"] for lock in vm["watch"]["locks"]} == {"kept"}
        for vm in vms
        if all(file["guard"] == "pinned" for file in vm["files"])
    )


def main() -> int:
    print(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
    return 0


if __name__ == "__main__":
    sys.exit(main())
