"""What storage and permissions answer: each refusal is an error of ours in words, and no descriptor stays open."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sized
from pathlib import Path

import pytest

from tests.support.descriptors import keep_descriptors
from tests.support.disk_images import domain_xml, image
from vmguard.adapters.storage import path_walk
from vmguard.adapters.storage.backing_chain import plan_of, resolve
from vmguard.adapters.storage.files import NotAFile, OpenedFile, Opener
from vmguard.adapters.storage.path_walk import Found
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.sources.domain_xml import parse_domain
from vmguard.errors import LockUnavailable, StorageTimeout


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    yield from keep_descriptors()


ANSWERS = {
    errno.ESTALE: (LockUnavailable, "stale file handle (ESTALE)"),
    errno.EIO: (LockUnavailable, "input/output error (EIO)"),
    errno.EROFS: (LockUnavailable, "read-only here (EROFS)"),
    errno.EPERM: (LockUnavailable, "operation not permitted (EPERM)"),
    errno.EMFILE: (LockUnavailable, "too many open files in this process"),
    errno.ENFILE: (LockUnavailable, "too many open files on this host"),
    errno.ENOMEM: (LockUnavailable, "Cannot allocate memory"),
    errno.ETIMEDOUT: (StorageTimeout, "the storage does not answer"),
    errno.EHOSTUNREACH: (StorageTimeout, "the storage does not answer"),
}


@pytest.mark.parametrize("number", ANSWERS, ids=lambda number: errno.errorcode[number])
def test_an_answer_of_the_storage(number: int, tmp_path: Path) -> None:
    class Failing(Opener):
        __slots__ = ()

        def _open_as_anyone(self, found: Found, flags: int) -> int:
            if found.path.endswith("b"):
                raise OSError(number, os.strerror(number))
            return super()._open_as_anyone(found, flags)

    image(tmp_path / "b")
    image(tmp_path / "a", "b")
    error, words = ANSWERS[number]
    with pytest.raises(error) as caught:
        resolve(parse_domain(domain_xml(tmp_path / "a")), Failing())
    said = str(caught.value)
    assert f"cannot open '{tmp_path}/b': " in said
    assert words in said


def test_a_read_that_fails_is_an_answer_too(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/proc/self/mem")  # nothing is mapped at its beginning
    with pytest.raises(LockUnavailable, match=r"cannot read .*/a': input/output error \(EIO\)"):
        plan_of(domain_xml(tmp_path / "a"))


def test_a_device_is_told_by_its_place_and_never_opened() -> None:
    """Opening some devices has effects: /dev/watchdog would begin to count down to a reset of this host."""

    class Watching(Opener):
        __slots__ = ()

        def _open_direct(self, found: Found, flags: int) -> int:
            raise AssertionError(f"{found.path} was opened")

    for path in ("/dev/zero", "/srv/../dev//zero"):
        with pytest.raises(NotAFile, match="is a character device"):
            Watching().open(path, EXCLUSIVE, "disk vda")


def test_direct_reads_are_aligned_wherever_the_image_begins(tmp_path: Path) -> None:
    asked = []

    class Watching(OpenedFile):
        __slots__ = ()

        def _fill(self, buffer: Sized, start: int) -> int:
            asked.append((start, len(buffer)))
            return len(buffer)

    found = path_walk.find(str(image(tmp_path / "a")))
    file = Watching(found, -1, (0, 0), 0, EXCLUSIVE, "disk vda")
    for count, offset in ((4096, 0), (4096, 10_000), (1, 8191), (5000, 4096)):
        assert len(file.read(count, offset)) == count
    found.close()
    assert asked == [(0, 4096), (8192, 8192), (4096, 4096), (4096, 8192)]


@pytest.mark.skipif(os.geteuid() != 0, reason="reading the type of every device needs root")
@pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="needs a block device")
def test_a_block_device_is_not_guarded_and_not_opened(tmp_path: Path) -> None:
    devices = [entry.path for entry in os.scandir("/dev") if entry.is_file() is False and is_block(entry.path)]
    if not devices:
        pytest.skip("no block device here")
    plan = plan_of(domain_xml(devices[0], "raw"))
    assert (plan.files, [item.kind for item in plan.unguarded]) == ([], ["block"])


def is_block(path: str) -> bool:
    return stat.S_ISBLK(os.stat(path, follow_symlinks=False).st_mode)
