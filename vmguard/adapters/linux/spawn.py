"""Start programs: the only place that does, beside programs.py for the command line, which waits for them.

Root starts them, so nothing of whoever called counts: neither variables nor the folder that root happens to stand in.
Anybody may leave a ``vmguard`` folder, a ``json.py`` or a ``virsh`` in /tmp. A program is looked for in PATH below,
gets ``environment()``, and begins in ``/`` (the daemon's own folder). An interpreter is isolated besides (``-I``).

All of that without ever waiting for the storage. ``subprocess`` closes all other descriptors in the child before it
becomes the new program, and its parent stands still until then, with all of its threads (vfork, and the interpreter's
lock). A close on NFS may wait without end, for pages that are dirty or for requests under way (measured: do_unlk,
nfs_iocounter_wait): the daemon's loop then stood still for as long as the storage was away. The kernel's own closes at
exec are no better: Linux 6.1 lets the parent go on before them, Linux 6.12 does not (measured), and the program itself,
which may be the one that cuts off a dead storage, waits on both. So the daemon has a process start its programs that
has no descriptor of a share (adapters/linux/keeper.py).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn, Protocol

import vmguard

#: where programs are looked for
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NULL = "/dev/null"
#: by which a test ends a process at a certain point (vmguard/faults.py); there is none outside of a test
_FAULT = "VMGUARD_FAULT"
#: the folder that has vmguard in it
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(vmguard.__file__)))
_RUN_MAIN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from {} import main; sys.exit(main())"
#: Python ignores them, and a new program should not inherit that
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)


def environment(**more: str) -> dict[str, str]:
    """Return the whole environment of a program that we start, with ``more`` of ours."""
    fault = {_FAULT: os.environ[_FAULT]} if _FAULT in os.environ else {}
    return {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", **fault, **more}


def python(module: str, words: Sequence[str] = ()) -> list[str]:
    """Return the command that runs ``main`` of one of our modules in an interpreter of its own, with ``words`` as its
    arguments.

    ``-IS``: no user's folders, no variables, no site module, which the child does not need and pays for. So it has to
    be told where vmguard lies.
    """
    return [sys.executable, "-IS", "-c", _RUN_MAIN.format(module), _ROOT, *words]


class Start(Protocol):
    """Starts a process, as ``spawn_here`` does."""

    def __call__(
        self,
        words: Sequence[str],
        fds: Sequence[int],
        stdin: int,
        stderr: int,
        env: Mapping[str, str],
        session: bool,
    ) -> int:
        """Raises OSError."""


def spawn(
    words: Sequence[str],
    fds: Sequence[int] = (),
    stdin: int = -1,
    stderr: int = -1,
    env: Mapping[str, str] | None = None,
    session: bool = False,
) -> int:
    """Start a process; return its pid. Its standard output goes nowhere, ``fds`` keep their numbers. Raises OSError.

    ``env``: made by ``environment``, if it needs more than that.
    ``session``: it leads a session of its own, all of which can be ended together.
    """
    start = _starters[-1]
    return start(words, fds, stdin, stderr, environment() if env is None else env, session)


def start_through(start: Start) -> None:
    """Have ``spawn`` start everything through somebody else from now on."""
    _starters.append(start)


def spawn_here(
    words: Sequence[str],
    fds: Sequence[int] = (),
    stdin: int = -1,
    stderr: int = -1,
    env: Mapping[str, str] | None = None,
    session: bool = False,
) -> int:
    """Start a process, with copies of all of our descriptors until its exec has closed them."""
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [(os.POSIX_SPAWN_OPEN, 1, _NULL, os.O_WRONLY, 0)]
    if stdin >= 0:
        actions.append((os.POSIX_SPAWN_DUP2, stdin, 0))
    else:
        actions.append((os.POSIX_SPAWN_OPEN, 0, _NULL, os.O_RDONLY, 0))
    if stderr >= 0:
        actions.append((os.POSIX_SPAWN_DUP2, stderr, 2))
    # Onto itself: that takes the close-on-exec flag away, in the child alone (posix_spawn_file_actions_adddup2(3)).
    actions += [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in fds]
    return os.posix_spawn(
        words[0],
        list(words),
        environment() if env is None else env,
        file_actions=actions,
        setsid=session,
        setsigdef=IGNORED,
    )


#: the last one counts
_starters: list[Start] = [spawn_here]


def become(words: Sequence[str], env: Mapping[str, str] | None = None) -> NoReturn:
    """Turn this process into a program. Raises OSError.

    ``env``: made by ``environment``; a job has it already.
    """
    if env is not None:
        os.execve(words[0], list(words), dict(env))
    os.execvp(words[0], list(words))


def ended(pid: int) -> int | None:
    """Return a child's exit status, negative for a signal; None while it lives. Ask only until it is known."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None
