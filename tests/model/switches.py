"""The switches of guard.pml, and what Spin must say to each: the promise holds, or is violated.

What must be violated is a control, or a limit that README.md states. ``python -m tests.model.switches`` prints all;
``--long`` plays those that must hold with more cuts, reboots and starts, too.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

MODEL = Path(__file__).with_name("guard.pml")
#: Spin's search; -n: no list of unreached code
_PAN = ("./pan", "-n", "-m2000000")
_CC = ("gcc", "-O1", "-w", "-DSAFETY", "-DNOFAIR", "-DCOLLAPSE", "-DMEMLIM=6000", "-o", "pan", "pan.c")


@dataclass(frozen=True)
class Switch:
    """One run of the model: a name, whether the promise must hold, and what is defined."""

    name: str
    holds: bool
    defines: str = ""


@dataclass(frozen=True)
class Answer:
    """What Spin found."""

    holds: bool
    states: int
    seconds: float
    #: the steps before a violation, as Spin replays them
    trail: str = ""


SWITCHES = (
    Switch("an honest server, a cut, a reboot", True),
    Switch("three hosts", True, "HOSTS=3 REBOOTS=0"),
    Switch("two disks", True, "DISKS=2 WRITES=1 REBOOTS=0"),
    Switch("an older recovery database", True, "DATABASE=LAGGING"),
    Switch("... and no epoch is read", False, "DATABASE=LAGGING TOKEN=0"),
    Switch("an honest server, no epoch is read, a reboot within a recovery", False, "TOKEN=0"),
    Switch("a server that is not courteous", True, "COURTEOUS=0"),
    Switch("a server that forgets: a rival gets in", False, "DATABASE=FORGETTING"),
    Switch("... and the pin protects the data", True, "DATABASE=FORGETTING RUNS=0 WRITES=1"),
    Switch("... and without it", False, "DATABASE=FORGETTING RUNS=0 WRITES=1 PIN=0"),
    Switch("a grace period shorter than the lease", False, "GRACE=1"),
    Switch("a grace period that is ended by hand", False, "BY_HAND=1"),
    Switch("no freeze", False, "FREEZE=0"),
    Switch("clocks of different speed", True, "SLOW_CLOCK=1"),
    Switch("... and a margin that does not cover it", False, "SLOW_CLOCK=1 FREEZE_AT=3"),
    Switch("that margin, with equal clocks", True, "FREEZE_AT=3"),
    Switch("queued writes, pinned", True, "WRITES=1 REBOOTS=0"),
    Switch("... not pinned", False, "WRITES=1 REBOOTS=0 PIN=0"),
    Switch("... no copy is kept open behind a dead QEMU", False, "WRITES=1 REBOOTS=0 COPY=0"),
    Switch("... not pinned, fenced at risk with the queue cut", True, "WRITES=1 REBOOTS=0 PIN=0 AT_RISK_FENCE=1"),
    Switch("queued writes, no reboot within a recovery", True, "WRITES=1 TORN=0"),
    Switch("... a reboot within a recovery: one write lands", False, "WRITES=1"),
    Switch("... an older database: one write lands", False, "WRITES=1 TORN=0 DATABASE=LAGGING"),
    Switch("a lock under a delegation", True, "DELEGATION=1"),
    Switch("... that is not called back", False, "DELEGATION=1 RECALL=0"),
    Switch("the lock is moved in one step", False, "ONE_STEP=1 CUTS=0 REBOOTS=0"),
    Switch("the server's admin takes one of two locks away", True, "DISKS=2 REVOKES=1 REBOOTS=0"),
    Switch("... and a VM starts with some of its disks", False, "DISKS=2 REVOKES=1 REBOOTS=0 ALL_OR_NONE=0"),
    Switch("a lock is released when a hook says so", False, "PROOF=0 CUTS=0 REBOOTS=0"),
    Switch("migration with its reservation", True, "HOSTS=3 MIGRATIONS=1 REBOOTS=0 CUTS=0"),
    Switch("... without", False, "HOSTS=3 MIGRATIONS=1 REBOOTS=0 CUTS=0 RESERVE=0"),
    Switch("daemons die and start", True, "DEATHS=1 DATABASE=LAGGING"),
    Switch("... and the next one trusts a fresh lease", False, "DEATHS=1 DATABASE=LAGGING TAKEN_OVER=0"),
    Switch("a daemon is stopped", False, "STOPS=1"),
)
LARGE = (
    Switch("three hosts, a reboot", True, "HOSTS=3"),
    Switch("two cuts, three reboots, three starts", True, "CUTS=2 REBOOTS=3 STARTS=3 DATABASE=LAGGING DEATHS=1"),
    Switch("three hosts, two cuts, two reboots", True, "HOSTS=3 CUTS=2 DATABASE=LAGGING STARTS=2"),
    Switch("two disks, queued writes", True, "DISKS=2 WRITES=1 TORN=0 CUTS=2"),
    Switch("migration among three hosts, a cut", True, "HOSTS=3 MIGRATIONS=1 REBOOTS=0"),
    Switch("clocks of different speed, two reboots", True, "SLOW_CLOCK=1 CUTS=2 REBOOTS=2 DEATHS=1"),
)


def ask(switch: Switch, seconds: float = 600) -> Answer:
    """Let Spin look at all states of one run. Raises RuntimeError when it does not get through."""
    began = time.monotonic()
    defines = [f"-D{define}" for define in switch.defines.split()]
    with TemporaryDirectory(prefix="vmguard-spin-") as folder:
        _run(["spin", *defines, "-a", str(MODEL)], folder, seconds)
        _run(list(_CC), folder, seconds)
        said = _run(list(_PAN), folder, seconds)
        states = re.search(r"(\d+) states, stored", said.replace("e+", "e"))
        errors = re.search(r"errors: (\d+)", said)
        if states is None or errors is None or "max search depth" in said or "pan: reached" in said:
            raise RuntimeError(f"{switch.name}: Spin did not look at everything:\n{said}")
        violated = int(errors[1]) > 0
        if violated and "assertion violated" not in said:
            raise RuntimeError(f"{switch.name}: that is no violation of the promise:\n{said}")
        trail = _run(["spin", *defines, "-t", "-p", "-g", str(MODEL)], folder, seconds) if violated else ""
    return Answer(not violated, int(states[1]), time.monotonic() - began, trail)


def _run(words: list[str], folder: str, seconds: float) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode and words[0] != "spin":
        raise RuntimeError(f"{words[0]}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model.switches", description=__doc__)
    parser.add_argument("--long", action="store_true", help="the large runs, too")
    wrong = 0
    for switch in (*SWITCHES, *(LARGE if parser.parse_args().long else ())):
        answer = ask(switch, 3600)
        right = answer.holds == switch.holds
        wrong += not right
        word = "holds" if answer.holds else "is violated"
        print(
            f"{'ok   ' if right else 'WRONG'} {switch.name} [{switch.defines}]: the promise {word},"
            f" {answer.states:,} states, {answer.seconds:.1f} s",
            flush=True,
        )
    return wrong


if __name__ == "__main__":
    sys.exit(main())
