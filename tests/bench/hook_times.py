"""The measuring of tests/bench/hook: four libvirts side by side, each in a corner of its own, asked in turns."""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.support.guard import eventually, make_disk, run
from tests.support.libvirt_host import HOOK, Domain, LibvirtHost

DEFAULT_ROUNDS = 15
#: milliseconds that the hook may add to the median start of a VM with one disk
BUDGET = 15.0
_WARM_UP = 2
_EMPTY_HOOK = "#!/bin/sh\nexit 0\n"


class Contestant:
    """One libvirt and its VM with one disk."""

    def __init__(self, title: str, host: LibvirtHost) -> None:
        self.title = title
        self.host = host
        disks = host.folder / "disks"
        disks.mkdir()
        self.domain = host.define(Domain("bench", make_disk(disks / "disk.raw")))
        self.starts: list[float] = []
        self.destroys: list[float] = []

    def turn(self) -> None:
        self.starts.append(1000 * self.host.virsh("start", self.domain.uuid).seconds)
        if self.title == "vmguard":
            self.host.wait_pinned(self.domain)
        self.destroys.append(1000 * self.host.virsh("destroy", self.domain.uuid).seconds)
        if self.title == "vmguard":
            assert eventually(lambda: self.host.status() == [])


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS
    with ExitStack() as stack:
        contestants = []
        for title, options in (
            ("no hook", {"guarded": False}),
            ("empty hook", {"guarded": False}),
            ("vmguard", {"guarded": True}),
            ("virtlockd", {"guarded": False, "virtlockd": True}),
        ):
            host = stack.enter_context(LibvirtHost(**options))
            if title == "empty hook":
                install(host.root / HOOK)
                host.restart_libvirtd()  # it looks for hooks only when it starts
            contestants.append(Contestant(title, host))
        for number in range(_WARM_UP + rounds):
            for offset in range(len(contestants)):  # nobody is always the first
                contestants[(number + offset) % len(contestants)].turn()
            print(f"\rround {number + 1 - _WARM_UP} of {rounds} ", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        show(contestants)
        show_hook_alone(contestants[2], rounds)
    return 0


def install(path: Path) -> None:
    path.write_text(_EMPTY_HOOK)
    path.chmod(0o755)


def show(contestants: list[Contestant]) -> None:
    base = contestants[0]
    print("milliseconds    start    best   added  ratio  destroy   added  ratio")
    for one in contestants:
        columns = []
        for ours, plain in ((one.starts, base.starts), (one.destroys, base.destroys)):
            median, before = statistics.median(ours[_WARM_UP:]), statistics.median(plain[_WARM_UP:])
            best = f" {min(ours[_WARM_UP:]):7.1f}" if ours is one.starts else ""
            columns.append(f"{median:7.1f}{best} {median - before:+7.1f} {median / before:6.3f}")
        print(f"{one.title:<12}  {'  '.join(columns)}")
    print(f"budget: a start with vmguard {BUDGET:+.0f} ms; medians of {len(base.starts) - _WARM_UP} rounds")


def show_hook_alone(contestant: Contestant, rounds: int) -> None:
    """Where the milliseconds are: the hook's own calls, without libvirt around them."""
    host, domain = contestant.host, contestant.domain
    times: dict[str, list[float]] = {}

    def call(operation: str, *command: str) -> None:
        answer = run([*host.space.prefix, *command], domain.xml().encode())
        times.setdefault(operation, []).append(1000 * answer.seconds)

    standing_by = host.root / "run/vmguard/standby"
    for _ in range(_WARM_UP + rounds):
        assert eventually(lambda: len(list(standing_by.glob("*.ask"))) > 1)
        call("true", "/bin/true")
        for operation in ("start", "prepare", "release"):
            call(operation, f"/{HOOK}", domain.name, operation, "begin", "-")
        assert eventually(lambda: host.status() == [])
    medians = {operation: statistics.median(values[_WARM_UP:]) for operation, values in times.items()}
    for operation in ("start", "prepare", "release"):
        print(f"the hook alone, {operation + ':':<9} {medians[operation] - medians['true']:5.1f} ms")


if __name__ == "__main__":
    sys.exit(main())
