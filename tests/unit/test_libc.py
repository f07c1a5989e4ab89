"""A system call that fails names itself."""

from __future__ import annotations

import errno
import sys

import pytest

from vmguard.adapters.linux import pidfd, spawn
from vmguard.adapters.linux.inotify import Inotify
from vmguard.adapters.linux.libc import check


def test_the_error_names_the_call_and_its_errno() -> None:
    with pytest.raises(OSError, match="pidfd_getfd: ") as caught:
        pidfd.copy_descriptor(-1, 0)
    assert caught.value.errno == errno.EBADF


def test_a_watch_that_cannot_be_had_says_why() -> None:
    watches = Inotify()
    with pytest.raises(OSError, match="inotify_add_watch: No such file") as caught:
        watches.add("/nowhere/at/all")
    assert caught.value.errno == errno.ENOENT
    watches.close()


def test_a_result_that_is_none_of_an_error_is_handed_on() -> None:
    assert check(7, "x") == 7


def test_a_child_gets_its_own_words_alone() -> None:
    command = spawn.python("vmguard.jobs.drain", ["3", "4"])
    assert command[:3] == [sys.executable, "-IS", "-c"]
    assert "from vmguard.jobs.drain import main" in command[3]
    assert command[5:] == ["3", "4"]
