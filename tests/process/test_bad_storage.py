"""What storage and permissions answer to other users and to a process that has run out: seen from a child."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import vmguard.core.sources.image_name
from tests.support.descriptors import keep_descriptors
from tests.support.disk_images import domain_xml, image
from tests.support.other_users import NOBODY, in_a_child, needs_root
from tests.support.processes import track
from vmguard.adapters.storage.backing_chain import plan_of, resolve
from vmguard.adapters.storage.files import Opener
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.sources.domain_xml import parse_domain
from vmguard.errors import LockUnavailable


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    yield from keep_descriptors()


def test_a_program_that_runs(tmp_path: Path) -> None:
    shutil.copy("/bin/sleep", tmp_path / "a")
    with track(subprocess.Popen([tmp_path / "a", "60"])) as running:
        try:
            with pytest.raises(LockUnavailable, match="being executed"):
                resolve(parse_domain(domain_xml(tmp_path / "a", "raw")), Opener())
        finally:
            running.kill()


def test_no_more_descriptors(tmp_path: Path) -> None:
    for number in range(300):
        image(tmp_path / str(number), str(number + 1) if number < 250 else "")
    assert "EMFILE" in in_a_child(lambda: use_up_descriptors(domain_xml(tmp_path / "0")))


def use_up_descriptors(xml: bytes) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
    resolve(parse_domain(xml), Opener())


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
    said = in_a_child(lambda: plan_of(domain_xml(share / "in" / "a")), NOBODY)
    assert said.startswith(f"LockUnavailable: disk vda: cannot open '{share}/in/a': permission denied")


@needs_root
def test_no_permission_for_a_link_of_the_chain(share: Path) -> None:
    image(share / "base").chmod(0o600)
    image(share / "a", "base").chmod(0o644)
    said = in_a_child(lambda: plan_of(domain_xml(share / "a")), NOBODY)
    assert f"disk vda: backing of {share}/a: cannot open '{share}/base': permission denied" in said


@needs_root
def test_root_that_is_squashed_opens_as_the_owner(share: Path) -> None:
    image(share / "a").chmod(0o600)
    os.chown(share / "a", NOBODY, NOBODY)
    work = lambda: [plan_of(domain_xml(share / "a"), Opener()).files[0].mode, os.geteuid(), os.getegid()]  # noqa: E731
    assert in_a_child(work, squashed=True) == f"['{EXCLUSIVE}', 0, 0]"


@needs_root
def test_root_that_may_not_even_look_tries_the_users_it_was_told(share: Path) -> None:
    inside = share / "in"
    inside.mkdir()
    image(inside / "a").chmod(0o600)
    inside.chmod(0o700)
    for path in (inside / "a", inside):
        os.chown(path, NOBODY, NOBODY)

    def opened_as(*users: int) -> str:
        opener = Opener(as_users=tuple((user, user) for user in users))
        return in_a_child(lambda: plan_of(domain_xml(inside / "a"), opener).files, squashed=True)

    assert opened_as(1234).startswith("LockUnavailable: disk vda: cannot open")
    assert "exclusive" in opened_as(1234, NOBODY)


assert vmguard.core.sources.image_name  # loaded before the children become users who may not read it
