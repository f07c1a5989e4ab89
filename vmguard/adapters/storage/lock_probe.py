"""Probe a lock: I/O through the description that holds it is the one proof. Only in a thread that may hang.

On NFSv4.2 SEEK_DATA costs one small request, moves no data, and carries the lock's stateid, which the server checks
first (nfsd4_seek, nfs4_preprocess_stateid_op). It asks behind the end of every file, so the client has no dirty pages
to flush before it, and the server answers "no data there" to a lock that stands. That answer is an error on the wire
(NFS4ERR_NXIO) or a success with ``sr_eof``; both become ENXIO here. Older versions have no SEEK: there it is a READ of
one page past the page cache.

A lock that the client knows to be lost gives EIO at once, without a request (fs/nfs/nfs4proc.c,
nfs4_select_rw_stateid). An EIO that the server itself sent (NFS4ERR_IO, a broken disk there) is counted in mountstats:
that tells the two apart. ``umount -f`` counts its EIO, too, but without a byte received (net/sunrpc/stats.c adds
rq_reply_bytes_recvd, which only xprt_complete_rqst sets).

No answer is believed that the local kernel could have given
------------------------------------------------------------
One NFS4ERR_NOTSUPP makes the client clear NFS_CAP_SEEK of the superblock. nfs42_proc_llseek then sends nothing any
more, looks at no stateid, and nfs4_file_llseek answers by itself: ENXIO behind the end of the file, as from a server
that honours the lock. So every answer needs a request: ``ops`` of mountstats is counted when a request ends
(rpc_exit_task), before the system call that waits for it returns.

A SEEK is proven to have gone out when the count rose by more than the SEEKs of our own that were on their way when it
began. The capability is only ever cleared, for the life of the superblock. Had it been off when this one began, only
requests that were on their way already could have ended since: at most one for each of our own older probes. One that
began later does not matter: it would have stayed here, too. For the same reason a probe that is proven proves all that
began before it. No probe waits for another, so a server that is away hangs each thread alone. What is not counted:
a SEEK of QEMU's that was on its way at the very moment the capability was cleared. It can hide that once; the next
probe of this mount shows it, and the second SEEK (next paragraph) narrows even that.

The answer NOTSUPP itself went out, too, and looks like NXIO here (ENXIO, counted as an error, as many bytes). It is
told apart by a second SEEK: NOTSUPP clears the capability before the first one returns, and the second stays here.
That is asked once for each session (EXCHANGE_ID and CREATE_SESSION counts): a server that has changed without a new
session shows with the next probe.

A mount whose server has no SEEK is asked by READ until it is mounted anew (its ``age`` goes back). One whose SEEK is
answered oddly (EINVAL) while READ works is asked by READ until the client makes a new session.

A READ is proven by where it came from. Through O_DIRECT it always goes out, also behind the end of the file
(fs/nfs/direct.c, nfs_file_direct_read). Without O_DIRECT the page must not be in the page cache: it is given back
(posix_fadvise; a dirty or busy page stays), and is read only where mincore(2) then says that it is absent. Whoever
brings it in between the two needs the server, too. The count alone would prove nothing here: every guest of the mount
reads. It must have risen all the same: nothing is sent for a file of 0 bytes, for one in a local cache (``fsc``), or by
a client that reads its own host's export itself (LOCALIO, Linux 6.12), past all locks. Not chosen: the thread's own
read_bytes in /proc/thread-self/io, which NFS counts for the page cache only since Linux 6.4.

Where neither can be asked, fstatvfs(2) still tells whether the server answers: nfs_statfs always sends a STATFS. It
renews the lease and says nothing about the lock.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from vmguard.adapters.linux import mountstats
from vmguard.adapters.storage.probe_calls import ProbeCalls

#: SEEKs until one is proven, whatever our other threads do; they are eight
_SEEK_TRIES = 12
#: calls until one fails with EIO while no request of another thread failed beside it
_EIO_TRIES = 8
#: errors that a server gives to a question that it does not understand: they say nothing about the lock
_NOT_UNDERSTOOD = frozenset({"EINVAL", "EOPNOTSUPP", "ENOTSUP", "ENOSYS", "ENXIO", "EREMOTEIO"})

_NO_SEEK = "the server has no SEEK"
_OLD_VERSION = "NFSv4.2 alone has SEEK"

Statistics = Callable[[], list[mountstats.NfsStatistics]]


class Outcome(NamedTuple):
    """What came of a probe."""

    #: the errno's name (EIO: lost, unless ``reached``), empty if the server honours the lock; why, if not ``asked``
    problem: str
    #: a request is proven to have gone to the server and to have been answered, well or not
    reached: bool
    #: False: nothing was asked about the lock, or nothing that the server understood
    asked: bool = True


class Count(NamedTuple):
    """The counts of one operation of one mount."""

    ops: int
    #: bytes of the answers
    received: int
    #: None: this kernel does not show them
    errors: int | None
    #: EXCHANGE_ID and CREATE_SESSION requests: another session, maybe another server
    session: tuple[int, int]
    #: seconds since the mount
    age: float


def count_of(point: str, operation: str, statistics: Statistics = mountstats.all_statistics) -> Count | None:
    """Return the counts of a mount's operation; None where they are not known.

    They are not known either when several NFS mounts lie on that mount point: they could be the wrong one's.
    """
    try:
        found = [seen for seen in statistics() if seen.point == point]
    except OSError:  # no descriptor is left
        return None
    if len(found) != 1:
        return None
    seen = found[0]
    session = (seen.exchange_id, seen.create_session)
    return Count(seen.count(operation), seen.received(operation), seen.errors(operation), session, seen.age)


class _Window(NamedTuple):
    """The time around the SEEKs of one probe."""

    number: int
    #: our own SEEKs that were on their way when it began
    older: int
    before: Count | None


class MountProbe:
    """How the locks of one mount are probed. Shared by the threads of the mount; no lock is held while one asks."""

    def __init__(
        self,
        point: str,
        seek: bool,
        statistics: Statistics = mountstats.all_statistics,
        calls: ProbeCalls | None = None,
    ) -> None:
        """``seek``: the mount is NFSv4.2. ``statistics`` reads mountstats; ``calls`` are the kernel's if None."""
        self._point = point
        self._seek = seek
        self._statistics = statistics
        self._calls = calls or ProbeCalls()
        self._mutex = threading.Lock()
        #: why READ is asked instead of SEEK; empty: SEEK is asked
        self._why_read = "" if seek else _OLD_VERSION
        #: the session in which a SEEK was answered oddly; None: it was not, or SEEK is known to be missing
        self._odd_in: tuple[int, int] | None = None
        #: the session in which the server was last seen to know SEEK
        self._known_in: tuple[int, int] | None = None
        self._age = 0.0
        #: of the newest SEEK, and of the newest that is proven to have gone out
        self._number = 0
        self._proven = 0
        self._on_their_way: set[int] = set()

    @property
    def kind(self) -> str:
        """``SEEK``, or ``READ`` and why."""
        why = self._why_read
        return f"READ ({why})" if why else "SEEK"

    def set_version(self, seek: bool) -> None:
        """Begin anew if another version of NFS is mounted there now."""
        if seek is not self._seek:
            self._seek = seek
            self._begin_anew()

    def probe(self, fd: int) -> Outcome:
        """Probe the lock on a description. It hangs for as long as the server is away."""
        if self._why_read:
            self._count("SEEK")  # a mount made anew is asked by SEEK again
        seek = self._ask_by_seek(fd) if not self._why_read else Outcome("", False, asked=False)
        if seek.asked and (not seek.problem or not seek.reached):
            return seek
        read = self._ask_by_read(fd)
        if read.asked:
            if seek.asked and not read.problem:
                self._read_from_now_on(f"the server answers SEEK with {seek.problem}", odd=True)
            return read
        if seek.asked and not _says_nothing(seek.problem):
            return seek
        words = f"{read.problem}; SEEK: {seek.problem}" if seek.problem else read.problem
        return Outcome(words, read.reached or seek.reached or self._server_answers(fd), asked=False)

    # -- SEEK -------------------------------------------------------------------------------------------------------

    def _ask_by_seek(self, fd: int) -> Outcome:
        first, session = self._one_seek(fd)
        if not first.asked or first.problem or session == self._known_in:
            return first
        second, again = self._one_seek(fd)
        if not second.asked:
            return Outcome(second.problem, True, asked=False)
        if not second.problem and session == again:
            self._known_in = session
        return second

    def _one_seek(self, fd: int) -> tuple[Outcome, tuple[int, int] | None]:
        """Ask until it is proven whether SEEK goes out; return the session in which it was answered, too."""
        with self._window() as window:
            for _ in range(_SEEK_TRIES):
                problem, _ = _call(partial(self._calls.seek, fd))
                after = self._count("SEEK")
                if problem == "EIO":
                    eio = self._whose_eio("SEEK", window.before, after, partial(self._calls.seek, fd))
                    if eio is not None:
                        return eio, None
                    continue
                if window.before is None or after is None:
                    return Outcome("its requests cannot be counted", False, asked=False), None
                rise = after.ops - window.before.ops
                if rise > window.older or self._proven >= window.number:
                    with self._mutex:
                        self._proven = max(self._proven, window.number)
                    return Outcome(problem, after.received > window.before.received), after.session
                if rise <= 0 and (not problem or _says_nothing(problem)):
                    self._read_from_now_on(_NO_SEEK)
                    return Outcome("the client answers it by itself", False, asked=False), None
                if problem and not _says_nothing(problem):
                    return Outcome(problem, False), None
        return Outcome("nothing could be proven beside all other SEEKs", False, asked=False), None

    @contextlib.contextmanager
    def _window(self) -> Iterator[_Window]:
        with self._mutex:
            self._number += 1
            number, older = self._number, len(self._on_their_way)
            self._on_their_way.add(number)
        try:
            yield _Window(number, older, self._count("SEEK"))
        finally:
            with self._mutex:
                self._on_their_way.discard(number)

    # -- READ -------------------------------------------------------------------------------------------------------

    def _ask_by_read(self, fd: int) -> Outcome:
        direct = self._calls.is_direct(fd)
        pages = [0] if direct else self._calls.some_pages(fd)
        why = "a file of 0 bytes cannot be read past the page cache"
        for page in pages:
            why = "the pages that were tried are dirty or in use"
            absent = True if direct else self._calls.give_back(fd, page)
            if absent is not False:
                outcome = self._one_read(fd, page, direct)
                if outcome.asked and (absent or outcome.problem):
                    return outcome
                why = outcome.problem or why
        return Outcome(why, False, asked=False)

    def _one_read(self, fd: int, page: int, direct: bool) -> Outcome:
        before = self._count("READ")
        problem, got = _call(partial(self._calls.read, fd, page))
        after = self._count("READ")
        if problem == "EIO":
            eio = self._whose_eio("READ", before, after, partial(self._calls.read, fd, page))
            return eio or Outcome("EIO only once", False, asked=False)
        # Several mounts on one point, or none any more: where it came from is proof enough then.
        answered = before is None or after is None or after.received > before.received
        if _says_nothing(problem):
            return Outcome(f"READ was answered with {problem}", answered, asked=False)
        if problem:
            return Outcome(problem, before is not None and after is not None and _failed(before, after) and answered)
        if not answered or not (got or direct):
            return Outcome("no READ went out", False, asked=False)
        return Outcome("", True)

    # -- both -------------------------------------------------------------------------------------------------------

    def _whose_eio(
        self, operation: str, before: Count | None, after: Count | None, again: Callable[[], int]
    ) -> Outcome | None:
        """Tell the client's own EIO (the lock is lost) from one of the server; return None if it does not come again.

        The client's own is there at once and without a request: one such call during which no request of the mount
        failed is enough.
        """
        for _ in range(_EIO_TRIES):
            if before is None or after is None or not _failed(before, after):
                return Outcome("EIO", False)
            before = self._count(operation)
            problem, _ = _call(again)
            after = self._count(operation)
            if problem != "EIO":
                return None
        if before is None or after is None or not _failed(before, after):
            return Outcome("EIO", False)
        if after.received <= before.received:
            return Outcome("its requests are cut off by hand (umount -f)", False, asked=False)
        return Outcome("EIO", True)

    def _server_answers(self, fd: int) -> bool:
        problem, _ = _call(partial(self._calls.statfs, fd))
        return not problem

    def _count(self, operation: str) -> Count | None:
        """Return the counts of an operation now; begin anew if they are those of another mount or session."""
        count = count_of(self._point, operation, self._statistics)
        if count is None:
            return None
        with self._mutex:
            # Threads may come here in another order than that in which they read: that is not another mount.
            other = count.age < self._age - 1 or self._odd_in not in (None, count.session)
            self._age = count.age if other else max(self._age, count.age)
        if other:
            self._begin_anew()
        return count

    def _begin_anew(self) -> None:
        with self._mutex:
            self._why_read = "" if self._seek else _OLD_VERSION
            self._odd_in = self._known_in = None

    def _read_from_now_on(self, why: str, odd: bool = False) -> None:
        count = self._count("SEEK") if odd else None
        with self._mutex:
            self._why_read = why
            self._odd_in = count.session if count is not None else None


def _failed(before: Count, after: Count) -> bool:
    """Return whether a request failed between two looks; no where the kernel does not count errors."""
    return (after.errors or 0) > (before.errors or 0)


def _says_nothing(problem: str) -> bool:
    """Return whether an error says nothing about a lock: the server did not understand, or nobody knows the number."""
    return problem in _NOT_UNDERSTOOD or problem.isdigit()


def _call(call: Callable[[], int]) -> tuple[str, int]:
    """Return the name of the errno, empty for none, and what the call returned."""
    try:
        return "", call()
    except OSError as problem:
        return errno.errorcode.get(problem.errno or 0, str(problem.errno)), -1
