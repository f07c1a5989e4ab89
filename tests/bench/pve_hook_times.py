"""The measuring of tests/bench/pve_hook: one VM with one disk, a real claim, a real daemon.

Between the phases there is a process that is QEMU as far as Proxmox's own check can tell: QEMU itself takes too long.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.pve.inside.hooks import exec_hookscript
from tests.pve.place import Place
from tests.support.guard import eventually
from vmguard.cli.hook_script import text as hook_text

DEFAULT_ROUNDS = 30
#: milliseconds that all phases together may cost over an empty hookscript, in the median
BUDGET = 60.0
PHASES = ("pre-start", "post-start", "pre-stop", "post-stop")
_WARM_UP = 3


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        place.vm("100")
        (place.folder / "qemu-server").mkdir()
        scripts = {"empty": "#!/bin/sh\nexit 0\n", "vmguard": hook_text("proxmox")}
        times: dict[str, list[dict[str, float]]] = {name: [] for name in scripts}
        for name, text in scripts.items():
            (place.folder / name).write_text(text)
            (place.folder / name).chmod(0o755)
        with place.guard:
            for number in range(_WARM_UP + rounds):
                for name in sorted(scripts, reverse=number % 2 == 1):  # nobody is always the first
                    times[name].append(_turn(place, name))
    show({name: found[_WARM_UP:] for name, found in times.items()})
    return 0


def _turn(place: Place, script: str) -> dict[str, float]:
    env = {
        "PATH": place.env["PATH"],
        "VMGUARD_RUN_DIR": str(place.guard.run_dir),
        "VMGUARD_PVE_DIR": str(place.pve),
        "PVE_MIGRATED_FROM": "",
    }
    found = {}
    qemu = None
    for phase in PHASES:
        if phase == "post-start":
            qemu = _qemu(place)
        elif phase == "post-stop" and qemu is not None:
            qemu.kill()
            qemu.communicate()
        began = time.perf_counter()
        said = exec_hookscript(str(place.folder / script), "100", phase, phase == "pre-start", env)
        found[phase] = 1000 * (time.perf_counter() - began)
        assert said == "", said
        if script == "vmguard" and phase == "pre-start":
            assert place.guard.states() == {"vm100": "claimed"}, "it must have claimed what it is measured for"
    assert eventually(lambda: place.guard.status() == [], 60), place.guard.log
    return found


def _qemu(place: Place) -> subprocess.Popen[bytes]:
    pid_file = place.folder / "qemu-server/100.pid"
    code = "import os, sys; os.open(sys.argv[1], os.O_RDWR); print(flush=True); sys.stdin.read()"
    words = ["kvm", "-IS", "-c", code, str(place.store / "images/100/vm-100-disk-0.raw"), "-pidfile", str(pid_file)]
    child = subprocess.Popen(words, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    pid_file.write_text(f"{child.pid}\n")
    return child


def show(times: dict[str, list[dict[str, float]]]) -> None:
    print(f"milliseconds  {'  '.join(f'{phase:>10}' for phase in PHASES)}    together        best")
    sums = {}
    for name, rounds in times.items():
        medians = [statistics.median(found[phase] for found in rounds) for phase in PHASES]
        together = [sum(found.values()) for found in rounds]
        sums[name] = statistics.median(together)
        columns = [*medians, sums[name], min(together)]
        print(f"{name:<12}  {'  '.join(f'{value:10.1f}' for value in columns)}")
    added = sums["vmguard"] - sums["empty"]
    verdict = "within" if added <= BUDGET else "OVER"
    print(f"added: {added:.1f} ms in the median of {len(times['empty'])} rounds; budget {BUDGET:.0f} ms: {verdict}")


if __name__ == "__main__":
    sys.exit(main())
