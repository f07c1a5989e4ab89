"""What storage and permissions answer: each refusal is an error of ours in words, and no descriptor stays open."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Sized
from pathlib import Path

import pytest

import vmguard.core.sources.image_name
from tests.support.disk_images import image
from vmguard.adapters.storage import files
from vmguard.adapters.storage.backing_chain import plan_of, resolve
from vmguard.adapters.storage.files import NotAFile, Opener
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.sources.domain_xml import parse_domain
from vmguard.errors import LockUnavailable, StorageTimeout, VmguardError

NOBODY = 65534


def disk(path: object, format: str = "qcow2") -> bytes:
    return (
        "<domain><name>web1</name><uuid>6f8b1c9e-0b1d-4b0a-9f0e-2a6f0d1c2b3a</uuid><devices><disk type='file'>"
        f"<driver type='{format}'/><source file='{path}'/><target dev='vda'/></disk></devices></domain>"
    ).encode()


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


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

        def _open_as_anyone(self, path: str, flags: int) -> int:
            if path.endswith("b"):
                raise OSError(number, os.strerror(number))
            return super()._open_as_anyone(path, flags)

    image(tmp_path / "b")
    image(tmp_path / "a", "b")
    error, words = ANSWERS[number]
    with pytest.raises(error) as caught:
        resolve(parse_domain(disk(tmp_path / "a")), Failing())
    said = str(caught.value)
    assert f"cannot open '{tmp_path}/b': " in said
    assert words in said


def test_a_read_that_fails_is_an_answer_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(files, "_read_all", fail)
    image(tmp_path / "a")
    with pytest.raises(LockUnavailable, match=r"cannot read .*/a': input/output error"):
        plan_of(disk(tmp_path / "a"))


def test_a_device_is_told_by_its_place_and_never_opened() -> None:
    """Opening some devices has effects: /dev/watchdog would begin to count down to a reset of this host."""

    class Watching(Opener):
        __slots__ = ()

        def _open_direct(self, path: str, flags: int) -> int:
            raise AssertionError(f"{path} was opened")

    for path in ("/dev/zero", "/srv/../dev//zero"):
        with pytest.raises(NotAFile, match="is a character device"):
            Watching().open(path, EXCLUSIVE, "disk vda")


def test_direct_reads_are_aligned_wherever_the_image_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fill(_: int, buffer: Sized, start: int) -> int:
        asked.append((start, len(buffer)))
        return len(buffer)

    monkeypatch.setattr(files, "_read_all", fill)
    file = Opener().open(str(image(tmp_path / "a")), EXCLUSIVE, "disk vda")
    for count, offset in ((4096, 0), (4096, 10_000), (1, 8191), (5000, 4096)):
        assert len(file.read(count, offset)) == count
    file.close()
    assert asked == [(0, 4096), (8192, 8192), (4096, 4096), (4096, 8192)]


def test_a_program_that_runs(tmp_path: Path) -> None:
    shutil.copy("/bin/sleep", tmp_path / "a")
    with subprocess.Popen([tmp_path / "a", "60"]) as running:
        try:
            with pytest.raises(LockUnavailable, match="being executed"):
                resolve(parse_domain(disk(tmp_path / "a", "raw")), Opener())
        finally:
            running.kill()


def test_no_more_descriptors(tmp_path: Path) -> None:
    for number in range(300):
        image(tmp_path / str(number), str(number + 1) if number < 250 else "")
    assert "EMFILE" in in_a_child(lambda: use_up_descriptors(disk(tmp_path / "0")))


def use_up_descriptors(xml: bytes) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
    resolve(parse_domain(xml), Opener())


# --- other users ----------------------------------------------------------------------------------------------------

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")


def in_a_child(work: Callable[[], object], uid: int = -1) -> str:
    """Run something in a child, as another user if wanted; what it raised, or what it returned, in words."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if uid >= 0:
                os.setgroups([])
                os.setegid(uid)
                os.seteuid(uid)
            said = str(work())
        except VmguardError as problem:
            said = f"{type(problem).__name__}: {problem.message}"
        except BaseException as problem:
            said = repr(problem)
        os.write(sending, said.encode()[:4000])
        os._exit(0)
    os.close(sending)
    with open(receiving, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A directory that another user can reach."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.geteuid() and str(directory).startswith("/tmp/"):
            directory.chmod(0o755)
    return tmp_path


@needs_root
@pytest.mark.parametrize("what", ["file", "directory"])
def test_no_permission(share: Path, what: str) -> None:
    (share / "in").mkdir()
    image(share / "in" / "a").chmod(0o600 if what == "file" else 0o644)
    (share / "in").chmod(0o755 if what == "file" else 0o700)
    said = in_a_child(lambda: plan_of(disk(share / "in" / "a")), NOBODY)
    assert said.startswith(f"LockUnavailable: disk vda: cannot open '{share}/in/a': permission denied")


@needs_root
def test_no_permission_for_a_link_of_the_chain(share: Path) -> None:
    image(share / "base").chmod(0o600)
    image(share / "a", "base").chmod(0o644)
    said = in_a_child(lambda: plan_of(disk(share / "a")), NOBODY)
    assert f"disk vda: backing of {share}/a: cannot open '{share}/base': permission denied" in said


@needs_root
def test_root_that_is_squashed_opens_as_the_owner(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(share / "a").chmod(0o600)
    os.chown(share / "a", NOBODY, NOBODY)
    squash_root(monkeypatch, share)
    said = in_a_child(lambda: [plan_of(disk(share / "a"), Opener()).files[0].mode, os.geteuid(), os.getegid()])
    assert said == f"['{EXCLUSIVE}', 0, 0]"


@needs_root
def test_root_that_may_not_even_look_tries_the_users_it_was_told(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(share / "a").chmod(0o600)
    os.chown(share / "a", NOBODY, NOBODY)
    squash_root(monkeypatch, share, stat_too=True)
    refused = in_a_child(lambda: plan_of(disk(share / "a"), Opener(as_users=((1234, 1234),))))
    assert refused.startswith("LockUnavailable: disk vda: cannot open")
    allowed = in_a_child(lambda: plan_of(disk(share / "a"), Opener(as_users=((1234, 1234), (NOBODY, NOBODY)))).files)
    assert "exclusive" in allowed


def squash_root(monkeypatch: pytest.MonkeyPatch, share: Path, stat_too: bool = False) -> None:
    """Refuse root what an NFS server with root_squash refuses it."""

    def squashed(call: Callable[..., object]) -> Callable[..., object]:
        def refuse(path: str, *rest: int) -> object:
            if os.geteuid() == 0 and path.startswith(str(share)):
                raise PermissionError(errno.EACCES, "permission denied")
            return call(path, *rest)

        return refuse

    monkeypatch.setattr(files, "_open_patiently", squashed(files._open_patiently))
    if stat_too:
        monkeypatch.setattr(os, "stat", squashed(os.stat))


@needs_root
@pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="needs a block device")
def test_a_block_device_is_not_guarded_and_not_opened(tmp_path: Path) -> None:
    devices = [entry.path for entry in os.scandir("/dev") if entry.is_file() is False and is_block(entry.path)]
    if not devices:
        pytest.skip("no block device here")
    plan = plan_of(disk(devices[0], "raw"))
    assert (plan.files, [item.kind for item in plan.unguarded]) == ([], ["block"])


def is_block(path: str) -> bool:
    return stat.S_ISBLK(os.stat(path, follow_symlinks=False).st_mode)


assert vmguard.core.sources.image_name  # loaded before the children become users who may not read it
