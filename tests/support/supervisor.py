"""Run one command and, when told to, end every process that descends from it. A script, started by processes.py.

The kernel gives orphans to their nearest ancestor that is a child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER): this
process. So a descendant cannot get away, not by a session of its own and not by the death of its parents.

Standard input: a line of JSON, {"words": [...], "env": {...}}; then a line that lets the supervisor go on, sent when
the process can no longer be mistaken for another one; then nothing until its end. The end of standard input, which
comes with the death of the test's process whatever the cause, ends everything.
To the descriptor named on the command line: the pid, or -errno; later the exit status, as waitstatus_to_exitcode().
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys

_PR_SET_CHILD_SUBREAPER = 36
#: ignored by Python, which no new program should inherit
_DEFAULT = (signal.SIGPIPE, signal.SIGXFSZ)


def _start(words: list[str], env: dict[str, str]) -> int:
    actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    return os.posix_spawnp(words[0], words, env, file_actions=actions, setsigdef=_DEFAULT)


def _line() -> bytes:
    text = b""
    while not text.endswith(b"\n"):
        part = os.read(0, 65536)
        if not part:
            sys.exit(1)  # the test has gone before anything was started
        text += part
    return text


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as stream:
        return [int(word) for word in stream.read().split()]


def _end_everything() -> None:
    """Kill our children, and what becomes our child by that, until there is none."""
    while True:
        for pid in _children():  # nobody else reaps them: these numbers belong to them
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def main() -> int:
    report = int(sys.argv[1])
    os.set_inheritable(report, False)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    died, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    order = json.loads(_line())
    try:
        command = _start(order["words"], order["env"])
    except OSError as problem:
        os.write(report, b"%d\n" % -int(problem.errno or 1))
        return 1
    try:
        os.write(report, b"%d\n" % command)
        ended = not os.read(0, 1)
        while not ended:
            for fd in select.select([0, died], [], [])[0]:
                ended |= fd == 0
                if fd == died:
                    os.read(died, 4096)
            while (found := _reap()) is not None:
                if found[0] == command:
                    os.write(report, b"%d\n" % found[1])
    finally:
        _end_everything()
    return 0


def _reap() -> tuple[int, int] | None:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, os.waitstatus_to_exitcode(status)) if pid else None


if __name__ == "__main__":
    sys.exit(main())
