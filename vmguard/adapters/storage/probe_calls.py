"""The system calls of a lock's probe. Each goes through the locked description, and may hang."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import random

from vmguard.adapters.linux.libc import libc

_BEHIND_EVERYTHING = 1 << 62
_PAGE_BYTES = 4096
#: that the page cache uses (include/linux/pagemap.h, MAX_PAGECACHE_ORDER: a huge page of x86)
_LARGEST_FOLIO_BYTES = 2 << 20
#: pages that are tried before a file counts as one that cannot be read past the page cache now
_PAGES = 4


class ProbeCalls:
    """What a probe asks of the kernel. Every method raises OSError unless it says otherwise."""

    def seek(self, fd: int) -> int:
        """Seek for data behind the end of every file; return 0 when there is none."""
        try:
            return os.lseek(fd, _BEHIND_EVERYTHING, os.SEEK_DATA)
        except OSError as problem:
            if problem.errno == errno.ENXIO:
                return 0
            raise

    def read(self, fd: int, page: int) -> int:
        """Read one page; return the number of bytes."""
        with mmap.mmap(-1, _PAGE_BYTES) as buffer:
            return os.preadv(fd, [buffer], page * _PAGE_BYTES)

    def statfs(self, fd: int) -> int:
        """Ask for the file system's statistics; return 0."""
        os.fstatvfs(fd)
        return 0

    def is_direct(self, fd: int) -> bool:
        """Return whether the description bypasses the page cache (O_DIRECT)."""
        return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)

    def some_pages(self, fd: int) -> list[int]:
        """Return the first page of a file, and others by chance; none of a file of 0 bytes. Raises nothing."""
        try:
            pages = -(-os.fstat(fd).st_size // _PAGE_BYTES)
        except OSError:
            return [0]  # the read will tell
        return [0, *(random.randrange(pages) for _ in range(_PAGES - 1))] if pages else []

    def give_back(self, fd: int, page: int) -> bool | None:
        """Drop a page from the page cache; return whether it is absent now, None if the kernel does not say.

        A page within a large folio goes only with all of that (mm/truncate.c, mapping_try_invalidate).
        """
        for size in (_PAGE_BYTES, _LARGEST_FOLIO_BYTES):
            os.posix_fadvise(fd, page * _PAGE_BYTES // size * size, size, os.POSIX_FADV_DONTNEED)
            absent = is_absent(fd, page)
            if absent is not False:
                break
        return absent


def is_absent(fd: int, page: int) -> bool | None:
    """Return whether a page is not in the page cache; None if the kernel does not say."""
    libc.mmap.restype = ctypes.c_void_p
    offset = ctypes.c_long(page * _PAGE_BYTES)
    # Not Python's mmap: it keeps a copy of the descriptor, whose close may hang on NFS.
    address = libc.mmap(None, ctypes.c_size_t(_PAGE_BYTES), mmap.PROT_READ, mmap.MAP_SHARED, fd, offset)
    if address in (None, ctypes.c_void_p(-1).value):
        return None
    resident = ctypes.c_ubyte(1)
    try:
        failed = libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(_PAGE_BYTES), ctypes.byref(resident))
        return not failed and not resident.value & 1
    finally:
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(_PAGE_BYTES))
