"""What storage and permissions answer to other users and to a process that has run out: seen from a child."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vmguard.core.sources.image_name
from tests.support.disk_images import image
from tests.support.processes import track
from vmguard.adapters.linux import regular_file
from vmguard.adapters.storage import files
from vmguard.adapters.storage.backing_chain import plan_of, resolve
from vmguard.adapters.storage.files import Opener
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.sources.domain_xml import parse_domain
from vmguard.errors import LockUnavailable, VmguardError

NOBODY = 65534


def disk(path: object, format: str = "qcow2") -> bytes:
    return (
        "<domain><name>web1</name><uuid>6f8b1c9e-0b1d-4b0a-9f0e-2a6f0d1c2b3a</uuid><devices><disk type='file'>"
        f"<driver type='{format}'/><source file='{path}'/><target dev='vda'/></disk></devices></domain>"
    ).encode()


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    gc.collect()  # an object of an earlier test that is collected meanwhile would close its descriptor
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


def test_a_program_that_runs(tmp_path: Path) -> None:
    shutil.copy("/bin/sleep", tmp_path / "a")
    with track(subprocess.Popen([tmp_path / "a", "60"])) as running:
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
    for path in (share / "a", share):
        os.chown(path, NOBODY, NOBODY)
    share.chmod(0o700)
    squash_root(monkeypatch, share, stat_too=True)
    refused = in_a_child(lambda: plan_of(disk(share / "a"), Opener(as_users=((1234, 1234),))))
    assert refused.startswith("LockUnavailable: disk vda: cannot open")
    allowed = in_a_child(lambda: plan_of(disk(share / "a"), Opener(as_users=((1234, 1234), (NOBODY, NOBODY)))).files)
    assert "exclusive" in allowed


def squash_root(monkeypatch: pytest.MonkeyPatch, share: Path, stat_too: bool = False) -> None:
    """Refuse root what an NFS server with root_squash refuses it."""

    def squashed(call: Callable[..., object]) -> Callable[..., object]:
        def refuse(path: str, *rest: object) -> object:
            if os.geteuid() == 0 and (path.startswith(str(share)) or is_below(path, share)):
                raise PermissionError(errno.EACCES, "permission denied")
            return call(path, *rest)

        return refuse

    monkeypatch.setattr(files, "_open_patiently", squashed(files._open_patiently))
    if stat_too:
        monkeypatch.setattr("vmguard.adapters.storage.path_walk.hold", squashed(regular_file.hold))


def is_below(link: str, share: Path) -> bool:
    return link.startswith("/proc/self/fd/") and os.readlink(link).startswith(str(share))


assert vmguard.core.sources.image_name  # loaded before the children become users who may not read it
