"""Wait until nothing of a dead QEMU is queued any more, in a process of its own: ``drain FD...``.

A killed QEMU's writes live on in the kernel: the NFS client re-sends them when the storage comes back. As long as a
copy of its description stays open, a lost lock turns them into EIO; so the copy may be unlocked and closed only when
they are through. Two calls together prove that for one file:

* fsync writes out, or fails, what is dirty in the page cache (QEMU with a cache), and waits for it;
* a buffered read waits for all O_DIRECT requests of the inode (nfs_start_io_read in fs/nfs/io.c, inode_dio_wait),
  also for those of a process that is gone.

Where no descriptor of it is left (a daemon that was killed, without systemd's store), ``INODE:PATH`` stands for one:
the wait is for the inode, whichever description it is asked through.

Both may hang as long as the storage is away, the second one even against SIGKILL: that is why it is a process of its
own, for which nothing has to wait.
"""

from __future__ import annotations

import fcntl
import os
import sys

from vmguard.adapters.linux.regular_file import open_regular


def drain(fd: int) -> None:
    """Return when nothing of this file is queued. EIO is an answer, too: the kernel refused what was left."""
    for call in (os.fsync, _buffered_read):
        try:
            call(fd)
        except OSError:
            pass


def _buffered_read(fd: int) -> None:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    os.pread(fd, 1, 0)


def main() -> int:
    for word in sys.argv[1:]:
        inode, colon, path = word.partition(":")
        if not colon:
            drain(int(word))
            continue
        try:
            fd = open_regular(path, os.O_RDONLY | os.O_DIRECT)
        except OSError as problem:
            # Gone: what is queued has nowhere to go. Closed to root: there is no other way to ask, and no lock to keep.
            sys.stderr.write(f"nothing can be said about writes queued for {path!r}: {problem.strerror}\n")
            continue
        if os.fstat(fd).st_ino == int(inode):
            drain(fd)
        os.close(fd)
    return 0


if __name__ == "__main__":
    sys.exit(main())
