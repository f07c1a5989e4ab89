"""A library between a program and libc that makes storage slow or fail as no file system of this machine does.

::

    library = build(tmp_path)
    run(command, env={"LD_PRELOAD": library, "ANSWER": "37", "FROM_CALL": "2"})

ANSWER: errno of a process's F_OFD_SETLK calls from the FROM_CALL-th on. SLOW_LOCKS, SLOW_WRITES: milliseconds by which
each F_OFD_SETLK and each pwrite is delayed.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

static int word(const char *name) { const char *value = getenv(name); return value ? atoi(value) : 0; }

static int answer(const char *name, int fd, int command, void *argument)
{
    static int calls;
    int (*real)(int, int, void *) = dlsym(RTLD_NEXT, name);
    if (command == F_OFD_SETLK) usleep(1000 * word("SLOW_LOCKS"));
    if (command == F_OFD_SETLK && word("ANSWER") && ++calls >= word("FROM_CALL")) {
        errno = word("ANSWER");
        return -1;
    }
    return real(fd, command, argument);
}

int fcntl(int fd, int command, ...)
{ va_list list; va_start(list, command); return answer("fcntl", fd, command, va_arg(list, void *)); }
int fcntl64(int fd, int command, ...)
{ va_list list; va_start(list, command); return answer("fcntl64", fd, command, va_arg(list, void *)); }

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t where)
{
    ssize_t (*real)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pwrite64");
    usleep(1000 * word("SLOW_WRITES"));
    return real(fd, data, size, where);
}
"""


def build(folder: Path) -> str:
    """Compile the library in a folder; return its path."""
    source, library = folder / "answers.c", folder / "answers.so"
    source.write_text(_SOURCE)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return str(library)
