"""Arguments of processes are read in threads; who does not tell them holds up nobody else."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from vmguard.adapters.linux import clock, may_block, proc
from vmguard.adapters.linux.proc import CommandLine
from vmguard.core.sources.process_arguments import Likelihood, likelihood
from vmguard.daemon.runtime import command_lines
from vmguard.daemon.runtime.command_lines import CommandLines, Lane
from vmguard.daemon.runtime.loop import Loop

MANY = 50


class Readers:
    """A loop, and a reader in which the processes named as silent hang until ``free``."""

    def __init__(self) -> None:
        #: seconds by which the loop's clock is ahead
        self.ahead = 0.0
        self.loop = Loop(lambda: clock.boottime() + self.ahead)
        self.silent: set[int] = set()
        #: seconds that each read takes
        self.slow = 0.0
        self.free = threading.Event()
        self.reads: list[int] = []
        self.lines = CommandLines(self.loop, self._read, self.started)
        self.answers: dict[int, CommandLine | None] = {}
        self.births: dict[int, int] = {}

    def started(self, pid: int) -> int:
        return self.births.get(pid, pid)

    def _read(self, pid: int, is_trusted: bool) -> CommandLine | None:
        self.reads.append(pid)
        time.sleep(self.slow)
        if pid in self.silent:
            self.free.wait(30)
        return CommandLine(pid, self.started(pid), "/usr/bin/qemu", ["qemu", str(pid)])

    def ask(self, *pids: int, lane: Lane = Lane.LIKELY, owner: str = "") -> None:
        for pid in pids:
            self.lines.ask(lane, pid, functools.partial(self.answers.__setitem__, pid), owner)

    def turn(self, until: Callable[[], object], seconds: float = 5.0) -> None:
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end
            self.loop.call_in(0.01, lambda: None)
            self.loop.turn()


@pytest.fixture
def readers() -> Iterator[Readers]:
    readers = Readers()
    yield readers
    readers.free.set()
    readers.turn(lambda: not readers.lines._reads)
    time.sleep(0.05)  # a thread wakes the loop after it has handed its answer over
    readers.loop.close()


def test_many_are_read_and_each_is_told_of(readers: Readers) -> None:
    readers.ask(*range(2, MANY))
    readers.turn(lambda: len(readers.answers) == MANY - 2)
    assert all(line is not None and line.arguments == ["qemu", str(pid)] for pid, line in readers.answers.items())


def test_those_that_only_wait_for_a_thread_do_not_hang(readers: Readers) -> None:
    readers.slow = 0.1
    pids = range(2, 150)
    readers.ask(*pids)
    hanging: list[int] = []

    def asked_long_ago() -> bool:
        hanging.extend(pid for pid in pids if readers.lines.hangs(Lane.LIKELY, pid))
        return len(readers.answers) == len(pids)

    began = time.monotonic()
    readers.turn(asked_long_ago, 20.0)
    assert time.monotonic() - began > 1.2
    assert hanging == []


def test_to_ask_takes_no_time_and_the_silent_one_is_told_of_when_it_speaks(readers: Readers) -> None:
    readers.silent = {2}
    before = time.monotonic()
    readers.ask(2, 3)
    assert time.monotonic() - before < 0.5
    readers.turn(lambda: 3 in readers.answers)
    assert 2 not in readers.answers
    readers.free.set()
    readers.turn(lambda: 2 in readers.answers)


def test_who_does_not_tell_is_known_as_such_and_not_read_a_second_time(readers: Readers) -> None:
    readers.silent = {2}
    readers.ask(2, 2, 2)
    assert readers.lines.is_asked(Lane.LIKELY, 2)
    assert not readers.lines.hangs(Lane.LIKELY, 2)
    readers.ahead = 2 * command_lines.HANGS_S
    readers.ask(2)
    assert readers.lines.hangs(Lane.LIKELY, 2)
    assert readers.reads == [2]
    readers.free.set()
    readers.turn(lambda: 2 in readers.answers)
    assert not readers.lines.hangs(Lane.LIKELY, 2)


def test_strangers_that_all_hang_keep_no_vm_of_a_hypervisor_waiting(readers: Readers) -> None:
    readers.silent = set(range(2, MANY))
    readers.ask(*readers.silent)
    readers.ask(*readers.silent, lane=Lane.POSSIBLE)
    readers.ask(1000, lane=Lane.NAMED)
    readers.turn(lambda: 1000 in readers.answers)
    assert sum(readers.lines._threads.values()) == 2 * command_lines._THREADS_PER_LANE + 1


def test_whoever_has_many_that_hang_keeps_half_of_a_lanes_threads_free_for_others(readers: Readers) -> None:
    readers.silent = set(range(2, MANY))
    readers.ask(*readers.silent, owner="user 1000")
    readers.ask(*range(1000, 1020), owner="user 1001")
    readers.turn(lambda: len(readers.answers) == 20)
    assert len(set(readers.reads) & readers.silent) == command_lines._THREADS_PER_OWNER
    readers.free.set()
    readers.turn(lambda: len(readers.answers) == 20 + MANY - 2)


def test_a_number_that_hangs_in_one_lane_is_read_in_another(readers: Readers) -> None:
    readers.silent = set(range(2, MANY))
    readers.ask(*range(2, MANY))
    readers.silent.discard(MANY - 1)  # it waits behind all the others
    readers.ask(MANY - 1, lane=Lane.NAMED)
    readers.turn(lambda: MANY - 1 in readers.answers)


def test_an_answer_about_the_process_before_is_none_about_this_one(readers: Readers) -> None:
    readers.silent = {2}
    readers.ask(2)
    readers.births[2] = 999  # its number is another process's now
    assert not readers.lines.is_asked(Lane.LIKELY, 2)
    readers.free.set()
    readers.turn(lambda: 2 in readers.answers)
    assert readers.answers[2] is None


def test_a_process_that_is_gone_is_told_of_too(readers: Readers) -> None:
    readers.births[2] = 0
    readers.ask(2)
    readers.turn(lambda: 2 in readers.answers)
    assert readers.answers[2] is None
    assert readers.reads == []


def test_a_reader_that_fails_is_an_answer(readers: Readers) -> None:
    def fail(pid: int, is_trusted: bool) -> CommandLine:
        raise MemoryError

    readers.lines = CommandLines(readers.loop, fail, readers.started)
    readers.ask(2)
    readers.turn(lambda: 2 in readers.answers)
    assert readers.answers[2] is None


def test_a_thread_that_cannot_be_started_is_tried_again(readers: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    start, failures = threading.Thread.start, [RuntimeError("can't start new thread")]

    def fail_once(thread: threading.Thread) -> None:
        if failures:
            raise failures.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail_once)
    readers.ask(2)
    readers.ahead = 1.0
    readers.turn(lambda: 2 in readers.answers)


def test_this_process_is_read_as_it_is() -> None:
    line = may_block.command_line(os.getpid())
    assert line is not None
    assert (line.pid, line.started) == (os.getpid(), proc.started(os.getpid()))
    assert line.program == os.path.realpath("/proc/self/exe")
    assert line.arguments == may_block.cmdline(os.getpid())
    assert may_block.cmdline_within(5.0, os.getpid()) == line.arguments
    assert may_block.command_line(1 << 22) is None


def test_a_child_that_does_not_get_the_arguments_in_time_is_given_up() -> None:
    def hang(pid: int) -> list[str]:
        time.sleep(60)
        return []

    before = time.monotonic()
    assert may_block.cmdline_within(0.1, os.getpid(), hang) == []
    assert time.monotonic() - before < 5


@pytest.mark.parametrize(
    ("program", "comm", "expected"),
    [
        ("/usr/bin/qemu-system-x86_64", "qemu-system-x86", Likelihood.LIKELY),
        ("/usr/bin/qemu-system-x86_64 (deleted)", "web", Likelihood.LIKELY),
        ("/nix/store/x/bin/.qemu-system-x86_64-wrapped", ".qemu-system-x8", Likelihood.LIKELY),
        ("/opt/emulator", "qemu-system-x86", Likelihood.LIKELY),
        ("/usr/libexec/qemu-kvm", "CPU 0/KVM", Likelihood.LIKELY),
        ("/usr/bin/qemu-storage-daemon", "qemu-storage-da", Likelihood.LIKELY),
        ("/usr/bin/swtpm", "swtpm", Likelihood.LIKELY),
        ("/usr/libexec/virtiofsd", "virtiofsd", Likelihood.LIKELY),
        ("", "kvm", Likelihood.LIKELY),
        ("/usr/bin/python3.11", "python3", Likelihood.POSSIBLE),
        ("/lib64/ld-linux-x86-64.so.2", "ld-linux-x86-64", Likelihood.POSSIBLE),
        ("", "python3", Likelihood.POSSIBLE),
        ("/usr/sbin/libvirtd", "rpc-libvirtd", Likelihood.NONE),
        ("/usr/bin/bash", "bash", Likelihood.NONE),
        ("", "kworker/0:1", Likelihood.NONE),
        ("", "", Likelihood.NONE),
    ],
)
def test_who_is_asked_for_its_arguments_at_all(program: str, comm: str, expected: Likelihood) -> None:
    assert likelihood(program, comm) is expected


# -- on the command line -----------------------------------------------------------------------------------------------


def test_many_that_hang_cost_no_more_time_than_one() -> None:
    def read(pid: int) -> list[str]:
        if pid % 2:
            time.sleep(60)
        return [f"qemu-{pid}"]

    began = time.monotonic()
    found = may_block.cmdlines_within(0.5, range(1, 21), read)
    assert time.monotonic() - began < 2
    assert found == {pid: [] if pid % 2 else [f"qemu-{pid}"] for pid in range(1, 21)}
