"""The measuring of tests/bench/load: how long claims and questions take while somebody does their worst."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.scale_load import cpu_seconds, resident_mib
from tests.support.guard import Guard, Vm, make_disk, run
from tests.support.namespaces import Space
from tests.support.processes import track
from vmguard.errors import DaemonError

#: what the design allows
CLAIM_MS, STATUS_MS, RSS_MIB = 250.0, 1000.0, 60.0
QUESTIONS, AT_ONCE = 2000, 50
SILENT, PROCESSES, DESCRIPTORS = 10_000, 1000, 19_990
_CLAIMS, _STATUSES = 11, 20

#: "processes" COUNT DESCRIPTORS FILE: an ordinary user's processes, each of which opens a file again and again and then
#: goes on opening and closing it; "words": the same, with a megabyte of arguments each; "silent" COUNT SOCKET:
#: connections on which nothing is ever said
_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
/* Run again as a process with a megabyte of arguments. */
static void wordy(char **argv) {
    static char word[100001];
    char *words[15] = {"qemu-system-x86_64", "wordy", argv[2], argv[3], argv[4]};
    memset(word, 'x', sizeof word - 1);
    for (int i = 5; i < 14; i++)
        words[i] = word;
    execv(argv[0], words);
}
static void ready(void) { puts("ready"); fflush(stdout); }
static void busy(const char *file, int descriptors) {
    int fd = open(file, O_RDONLY);
    for (int i = 0; i < descriptors; i++)
        dup(fd);
    for (;;) {
        usleep(300000);
        close(dup(fd));
        dup(fd);
        usleep(300000);
        close(descriptors / 2 + 10);
    }
}
int main(int argc, char **argv) {
    int count = atoi(argv[2]);
    struct rlimit files = {20000, 20000};
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_PDEATHSIG, 9);
    if (!strcmp(argv[1], "wordy"))
        busy(argv[4], atoi(argv[3]));
    if (!strcmp(argv[1], "silent")) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        strncpy(address.sun_path, argv[3], sizeof address.sun_path - 1);
        ready();
        for (int i = 0; i < count; i++)
            if (connect(socket(AF_UNIX, SOCK_SEQPACKET, 0), (struct sockaddr *)&address, sizeof address))
                return 1;
        puts("all");
        fflush(stdout);
        pause();
    }
    setgroups(0, 0);
    if (setgid(65534) || setuid(65534))
        return 1;
    prctl(PR_SET_PDEATHSIG, 9); /* another user gets none from before */
    for (int i = 0; i < count; i++)
        if (!fork()) {
            prctl(PR_SET_PDEATHSIG, 9);
            if (!strcmp(argv[1], "words"))
                wordy(argv);
            busy(argv[4], atoi(argv[3]));
        }
    ready();
    pause();
}
"""


@dataclass
class Result:
    """What was measured under one load. Times in milliseconds."""

    name: str
    claims: list[float] = field(default_factory=list)
    statuses: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    rss: float = 0.0
    cpu_percent: float = 0.0
    #: what the load itself has to say
    note: str = ""

    @property
    def claim(self) -> float:
        return statistics.median(self.claims)

    @property
    def status(self) -> float:
        return statistics.median(self.statuses)


class Host:
    """A daemon among processes and mounts of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.space = Space(f"mount -t tmpfs none {folder}", own_pids=True)
        self.inside = self.space.root / str(folder).lstrip("/")
        self.program = folder / "qemu-system-x86_64"
        command = ["cc", "-O2", "-static", "-w", "-x", "c", "-", "-o", str(self.inside / self.program.name)]
        subprocess.run(command, input=_SOURCE, text=True, check=True)
        self.inside.chmod(0o755)
        (self.inside / "public").write_text("x")
        self.guard = Guard(self.inside, prefix=self.space.prefix)
        self.guard.configure(owner_record={"enabled": False}, daemon={"run_dir": str(folder / "run")})
        self.guard.config = folder / "vmguard.yaml"
        self.guard.start()
        children = Path(f"/proc/{self.guard.pid}/task/{self.guard.pid}/children").read_text().split()
        self.pid = int(children[0])
        self.run_dir = str(self.inside / "run")

    def end(self) -> None:
        self.guard.stop()
        self.guard.end()
        self.space.end()

    @contextlib.contextmanager
    def load(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Run the program, from its first word on."""
        command = [*self.space.prefix, str(self.program), *words]
        process = track(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()
            process.communicate()

    def claim(self, number: int, keep: str = "") -> float:
        """Claim a VM's disk as libvirt's hook does, and let go of it; return the claim's seconds.

        ``keep``: the name of a VM whose disk is kept.
        """
        disk = make_disk(self.inside / f"disk{number}.raw")
        vm = Vm(keep or f"vm{number}", [self.folder / disk.name])
        environment = {**self.guard.hook_environment(), "VMGUARD_RUN_DIR": str(self.folder / "run")}
        hook = [*self.space.prefix, str(self.folder / "qemu-hook"), vm.name]
        answer = run([*hook, "prepare", "begin", "-"], vm.xml(), environment)
        if answer.status:
            raise DaemonError(answer.err)
        if not keep:
            run([*hook, "release", "end", "-"], vm.xml(), environment)
        return answer.seconds

    def asker(self, count: int, at_once: int) -> subprocess.Popen[str]:
        """Start to ask for the status so many times (tests/bench/load_asker.py)."""
        words = [sys.executable, "-m", "tests.bench.load_asker", str(self.folder / "run"), str(count), str(at_once)]
        command = [*self.space.prefix, f"--wd={os.getcwd()}", *words]
        return track(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))


def answers(asker: subprocess.Popen[str]) -> tuple[list[float], list[str]]:
    """Return what an asker has seen: milliseconds until each answer, and what went wrong."""
    found = json.loads(asker.communicate()[0])
    return found["times"], found["refused"]


def measure(name: str, host: Host) -> Result:
    """Make claims and ask questions, one after the other."""
    result = Result(name)
    began, before = time.monotonic(), cpu_seconds(host.pid)
    result.statuses, result.refused = answers(host.asker(_STATUSES, 1))
    for number in range(_CLAIMS):
        try:
            result.claims.append(1000 * host.claim(number))
        except DaemonError as problem:
            result.refused.append(problem.message)
    result.cpu_percent = 100 * (cpu_seconds(host.pid) - before) / (time.monotonic() - began)
    result.rss = resident_mib(host.pid)
    return result


# -- loads ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def questions(host: Host, size: float, refused: list[str], notes: list[str]) -> Iterator[None]:
    """Ask so many questions, fifty at once, each over a connection of its own as `check` does."""
    began = time.monotonic()
    asker = host.asker(int(QUESTIONS * size), AT_ONCE)
    time.sleep(0.3)
    yield
    times, problems = answers(asker)
    refused += problems
    notes.append(f"{len(times)} answered in {time.monotonic() - began:.1f} s at most")


@contextlib.contextmanager
def silent(host: Host, size: float, refused: list[str], notes: list[str]) -> Iterator[None]:
    """Hold connections open on which nothing is said. They are still coming when the measuring begins."""
    with host.load("silent", str(int(SILENT * size)), str(host.folder / "run" / "vmguard.sock")) as process:
        yield
        notes.append(f"{descriptors(host.pid)} descriptors in use" + ("" if process.poll() is None else ", REFUSED"))


@contextlib.contextmanager
def checks(host: Host, size: float, refused: list[str], notes: list[str]) -> Iterator[None]:
    """Run so many real ``vmguard check``, fifty at once: each an interpreter of its own."""
    script = (
        'seq "$1" | xargs -P "$2" -I% "$3" -m vmguard --config "$4" check asked 2>&1 | '
        "grep -Eo \"VM 'asked'|daemon.*|refused.*|Traceback\" | sort | uniq -c"
    )
    host.claim(1000, keep="asked")
    count = int(QUESTIONS * size)
    words = ["sh", "-c", script, "-", str(count), str(AT_ONCE), sys.executable, str(host.folder / "vmguard.yaml")]
    began = time.monotonic()
    asking = track(
        subprocess.Popen(
            [*host.space.prefix, f"--wd={os.getcwd()}", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    )
    time.sleep(2)
    yield
    said = " ".join(asking.communicate()[0].split())
    notes.append(f"{said} of {count} in {time.monotonic() - began:.0f} s")
    if said != f"{count} VM 'asked'":
        refused.append(f"checks: {said}")


def processes(
    count: int, each: int, how: str = "processes"
) -> Callable[[Host, float, list[str], list[str]], AbstractContextManager[None]]:
    """Return a load: processes of an ordinary user that are called qemu and have so many descriptors."""

    @contextlib.contextmanager
    def load(host: Host, size: float, refused: list[str], notes: list[str]) -> Iterator[None]:
        words = str(max(1, int(count * size))), str(each), str(host.folder / "public")
        with host.load(how, *words):
            time.sleep(4)  # they have been found by then
            yield

    return load


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


LOADS: dict[str, Callable[[Host, float, list[str], list[str]], AbstractContextManager[None]]] = {
    f"{QUESTIONS} questions, {AT_ONCE} at once": questions,
    f"{QUESTIONS} checks, {AT_ONCE} at once": checks,
    f"{SILENT} silent connections": silent,
    f"one process with {DESCRIPTORS} descriptors": processes(1, DESCRIPTORS),
    f"four processes with {DESCRIPTORS} descriptors": processes(4, DESCRIPTORS),
    f"{PROCESSES} processes called qemu": processes(PROCESSES, 10),
    f"{PROCESSES} with a megabyte of arguments": processes(PROCESSES, 10, "words"),
}


def under(load: str, host: Host, size: float = 1.0) -> Result:
    """Measure under one load."""
    refused: list[str] = []
    notes: list[str] = []
    with LOADS[load](host, size, refused, notes):
        result = measure(load, host)
    result.refused += refused
    result.note = ", ".join(notes)
    return result


@contextlib.contextmanager
def hosted() -> Iterator[Host]:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder))
        try:
            yield host
        finally:
            host.end()


def show(results: Sequence[Result]) -> None:
    base = results[0]
    print(f"{'':<42}{'claim':>9}{'ratio':>7}{'status':>10}{'ratio':>7}{'worst':>9}{'RSS':>9}{'CPU':>7}  refused")
    for one in results:
        print(
            f"{one.name:<42}{one.claim:>6.0f} ms{one.claim / base.claim:>7.2f}{one.status:>7.1f} ms"
            f"{one.status / base.status:>7.1f}{max(one.statuses):>6.0f} ms{one.rss:>5.1f} MiB{one.cpu_percent:>5.0f} %"
            f"  {len(one.refused)}{' ' + one.note if one.note else ''}"
        )
    for reason in sorted({reason for one in results for reason in one.refused}):
        print(f"refused: {reason}")
    print(f"allowed: claim {CLAIM_MS:.0f} ms, status {STATUS_MS:.0f} ms, RSS {RSS_MIB:.0f} MiB, nothing refused")
    load = os.getloadavg()[0]
    print(f"load average {load:.1f} on {os.cpu_count()} processors")


def main() -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    size = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    with hosted() as host:
        results = [measure("in peace", host)]
        for load in (load for load in LOADS if not sys.argv[2:] or sys.argv[2] in load):
            print(f"measuring: {load}", file=sys.stderr, flush=True)
            results.append(under(load, host, size))
        show(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
