"""The measuring of tests/bench/scale: a daemon and many tiny processes, in a corner with processes of its own."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.guard import Guard, eventually
from tests.support.namespaces import Space

DEFAULT_VMS = 1000
#: what the design allows for 1,000 VMs
CYCLE_MS, RSS_MIB, IDLE_PERCENT, PIN_SECONDS = 100.0, 60.0, 1.0, 2.0
_IDLE_SECONDS = 30.0
_ROUNDS = 15

#: opens the files that its arguments name; on SIGUSR1 one more (its last argument), on SIGUSR2 the same, but behind the
#: closing of another descriptor, whose number it gets; does nothing else
_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    sigset_t set;
    int number;
    int more = atoi(getenv("DESCRIPTORS"));
    for (int i = 1; i < argc; i++)
        if (!strncmp(argv[i], "file=", 5) && open(argv[i] + 5, O_RDWR) < 0)
            return 1;
    while (more-- > 0)
        dup(0);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, 0);
    while (!sigwait(&set, &number)) {
        if (number == SIGUSR2)
            close(0);
        int fd = open(argv[argc - 1], O_RDWR);
        struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 1};
        fcntl(fd, F_OFD_SETLK, &lock);
    }
}
"""
#: starts all the others, so that one nsenter is enough, and prints their pids as they are numbered inside
_STARTER = """
import json, subprocess, sys
for words in json.load(sys.stdin):
    null = subprocess.DEVNULL
    child = subprocess.Popen(words, executable=sys.argv[1], stdin=null, stdout=null, stderr=null)
    print(child.pid, flush=True)
"""
#: measures rounds in a process of their own, with the very code of the daemon
_ROUND = """
import json, sys, time
from vmguard.adapters.linux import clock
from vmguard.daemon.scan.process_fds import MountTables, ProcessFds
tables, open_now = MountTables(), [ProcessFds(int(pid)) for pid in sys.argv[2:]]
for fds in open_now: fds.full(tables)
def cost(work):
    began = time.process_time()
    for fds in open_now: work(fds)
    return 1000 * (time.process_time() - began)
looks = {"changed": ProcessFds.changed, "full": lambda fds: fds.full(tables)}
print(json.dumps({name: [cost(work) for _ in range(int(sys.argv[1]))] for name, work in looks.items()}))
"""


class Host:
    """The corner, its daemon and its processes."""

    def __init__(self, folder: Path, vms: int, descriptors: int) -> None:
        self.folder = folder
        self.descriptors = descriptors
        self.space = Space(f"mount -t tmpfs none {folder}", own_pids=True)
        self.inside = self.space.root / str(folder).lstrip("/")
        program = self.inside / "qemu-writer"
        subprocess.run(
            ["cc", "-O2", "-static", "-x", "c", "-", "-o", str(program)], input=_SOURCE, text=True, check=True
        )
        self.guard = Guard(self.inside, prefix=self.space.prefix)
        self.guard.configure(owner_record={"enabled": False}, daemon={"run_dir": str(folder / "run")})
        self.guard.config = folder / "vmguard.yaml"
        self.pids = self._start_all(str(folder / "qemu-writer"), vms)

    def _start_all(self, program: str, vms: int) -> list[int]:
        commands = []
        for number in range(vms):
            words = ["qemu-system-x86_64", "-name", f"guest=vm{number}", "-uuid", str(uuid.uuid4())]
            for letter in "ab":
                disk = f"disk{number}{letter}.raw"
                (self.inside / disk).write_bytes(bytes(4096))
                words += ["-drive", f"file={self.folder / disk}"]
            (self.inside / f"new{number}.raw").write_bytes(bytes(4096))
            commands.append([*words, str(self.folder / f"new{number}.raw")])
        starter = [*self.space.prefix, sys.executable, "-IS", "-c", _STARTER, program]
        env = {**os.environ, "DESCRIPTORS": str(self.descriptors)}
        answer = subprocess.run(
            starter, input=json.dumps(commands), text=True, capture_output=True, check=True, env=env
        )
        return [int(line) for line in answer.stdout.split()]

    def daemon_pid(self) -> int:
        """As it is numbered outside."""
        children = Path(f"/proc/{self.guard.pid}/task/{self.guard.pid}/children").read_text().split()
        return int(children[0])

    def run(self, *command: str) -> str:
        answer = subprocess.run([*self.space.prefix, *command], text=True, capture_output=True, cwd=os.getcwd())
        assert answer.returncode in (0, 1), answer.stderr
        return answer.stdout

    def vmguard(self, *words: str) -> Any:
        config = ["--config", str(self.guard.config), "--json", "--timeout", "120"]
        return json.loads(self.run(sys.executable, "-m", "vmguard", *config, *words))

    def pinned(self) -> int:
        vms = self.vmguard("status")["vms"]
        return sum(file["guard"] == "pinned" for vm in vms for file in vm["files"])

    def end(self) -> None:
        os.kill(self.daemon_pid(), signal.SIGKILL)
        self.guard.process = None
        self.space.end()


def cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def idle_percent(pid: int) -> float:
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(_IDLE_SECONDS)
    return 100 * (cpu_seconds(pid) - before) / (time.monotonic() - began)


def seconds_to_pin(host: Host, number: int, how: str = "USR1") -> float:
    """From a process's opening of one more file until the daemon has it pinned (its log says when)."""
    wanted = f"new{number}.raw pinned"
    log: Callable[[], str] = lambda: (host.inside / "daemon.log").read_text()  # noqa: E731
    began = time.monotonic()
    host.run("/bin/kill", f"-{how}", str(host.pids[number]))
    assert eventually(lambda: wanted in log(), 10), log()[-2000:]
    return time.monotonic() - began


def row(what: str, value: float, unit: str, allowed: float) -> None:
    verdict = "ok" if value <= allowed else "TOO MUCH"
    print(f"{what:<58}{value:>9.2f} {unit:<4} allowed {allowed:>6.1f}   {verdict}", flush=True)


def main() -> int:
    vms = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_VMS
    descriptors = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder), vms, descriptors)
        try:
            measure(host, vms)
        finally:
            host.end()
    return 0


def measure(host: Host, vms: int) -> None:
    host.guard.start()
    pid = host.daemon_pid()
    print(f"{vms} processes with 2 files and {3 + host.descriptors} other descriptors each", flush=True)
    began, before = time.monotonic(), cpu_seconds(pid)
    host.vmguard("adopt", "--all")
    assert eventually(lambda: host.pinned() == 2 * vms, 120), host.pinned()
    took, cpu = time.monotonic() - began, cpu_seconds(pid) - before
    print(f"adopt --all: {took:.1f} s, {cpu:.1f} s of CPU in the daemon", flush=True)
    time.sleep(5)
    idle = idle_percent(pid)
    times = json.loads(host.run(sys.executable, "-c", _ROUND, str(_ROUNDS), *map(str, host.pids)))
    medians = {name: statistics.median(found) for name, found in times.items()}
    scale = vms / 1000
    row("a round, CPU: descriptors counted, links compared", medians["changed"], "ms", CYCLE_MS * scale)
    row("a round, CPU: everything read", medians["full"], "ms", CYCLE_MS * scale)
    row("the daemon's resident memory", resident_mib(pid), "MiB", RSS_MIB)
    row(f"the daemon when nothing happens ({_IDLE_SECONDS:.0f} s)", idle, "%", IDLE_PERCENT)
    step = max(2, vms // 12)
    for how, first, signal_name in (("opened", 0, "USR1"), ("opened behind a close", 1, "USR2")):
        pins = [seconds_to_pin(host, number, signal_name) for number in range(first, vms, step)]
        row(f"a file newly {how} is pinned after, median", statistics.median(pins), "s", PIN_SECONDS)
        row(f"a file newly {how} is pinned after, longest", max(pins), "s", PIN_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
